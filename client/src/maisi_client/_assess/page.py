"""The report as one HTML page without scripts or other files, for the screen and for paper."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._atomic import atomic
from . import case_sections, montages, sections
from .montages import Picture
from .sides import Side
from .summary import Obedience
from .verdicts import Verdict

if TYPE_CHECKING:
    from .run import Results

_STYLE = Path(__file__).with_name("page.css")
_SAMPLE = 6  # volumes of each dataset at the top of the page


def write_page(
    path: Path, results: Results, verdicts: Sequence[Verdict], report: Mapping[str, Any]
) -> None:
    """Write the page."""
    with atomic(path) as draft:
        draft.write_text("\n".join(_page(results, verdicts, report)) + "\n", encoding="utf-8")


def _page(
    results: Results, verdicts: Sequence[Verdict], report: Mapping[str, Any]
) -> Iterator[str]:
    name = report["datasets"]["SYNTHETIC"]["folder"]
    yield "<!doctype html>"
    yield '<html lang="en"><head><meta charset="utf-8">'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    yield f"<title>Assessment of {escape(name)}</title>"
    yield f"<style>\n{_STYLE.read_text(encoding='utf-8')}</style></head><body><main>"
    yield f"<header><h1>Assessment of <em>{escape(name)}</em></h1>"
    yield f"<p class='lead'>{escape(_counts(report))}</p></header>"
    yield "<ol class='verdicts'>"
    for verdict in verdicts:
        yield (
            f"<li class='{verdict.level}'><b>{verdict.level}</b>"
            f"<div><h2>{escape(verdict.question)}</h2><p>{escape(verdict.sentence)}</p></div></li>"
        )
    yield "</ol>"
    yield "<section><h2>Examples</h2>"
    for side in (results.synthetic, results.real):
        if side is not None:
            yield _sample(side)
    yield "</section>"
    if results.realism:
        yield from sections.realism(results.realism)
    yield from sections.diversity(results.diversity, _duplicates(results))
    if results.obedience:
        yield from case_sections.obedience(
            results.obedience, _worst(results.synthetic, results.obedience)
        )
    if results.privacy:
        yield from case_sections.privacy(results.privacy, _pairs(results))
    yield from sections.bias(results.bias)
    if results.use:
        yield from sections.use(results.use)
    yield from sections.method(report)
    yield "</main></body></html>"


def _counts(report: Mapping[str, Any]) -> str:
    names = {"SYNTHETIC": "synthetic", "--real": "real", "--train-set": "training"}
    counts = [
        f"{dataset['volumes']:,} {names[role]}" for role, dataset in report["datasets"].items()
    ]
    kind = report["settings"]["modality"].upper()
    return f"Volumes of {kind}: {', '.join(counts)}. Assessed by maisi assess."


def _sample(side: Side) -> str:
    step = max(1, len(side) // _SAMPLE)
    chosen = list(range(0, len(side), step))[:_SAMPLE]
    name = "Synthetic" if side.role == "SYNTHETIC" else "Real"
    return _gallery(
        name, [(montages.axial(side.record(i)), side.names[i]) for i in chosen], "small"
    )


def _duplicates(results: Results) -> str:
    side = results.synthetic
    rows = {name: row for row, name in enumerate(side.names)}
    pictures = [
        (
            montages.pair(side.coarse(rows[pair.one]), side.coarse(rows[pair.other])),
            f"{pair.one} and {pair.other}",
        )
        for pair in results.diversity.duplicates[:3]
    ]
    return _gallery("The closest pairs within the set, and their difference.", pictures)


def _worst(side: Side, result: Obedience) -> str:
    return _gallery(
        "The volumes with the lowest ratio of borders, with the outlines of their labels.",
        [
            (
                montages.planes(side.record(case.index), outlined=True),
                f"{case.name}: {case.borders:.2f}",
            )
            for case in result.worst[:4]
        ],
    )


def _pairs(results: Results) -> str:
    assert results.privacy is not None and results.train is not None
    pictures = []
    for pair in results.privacy.pairs[:4]:
        own, train = results.synthetic, results.train
        picture = montages.pair(own.coarse(pair.index), train.coarse(pair.training_index))
        sign = "suspicious: " if pair.suspicious else ""
        pictures.append((picture, f"{sign}{pair.name} and {pair.training}: {pair.relative:.2f}"))
    return _gallery(
        "The closest pairs: synthetic volume, training volume aligned to it, and their difference"
        " (red: the synthetic volume is darker, blue: it is brighter). The number is the residual"
        " after alignment, divided by the least residual of real pairs.",
        pictures,
    )


def _gallery(title: str, pictures: Sequence[tuple[Picture, str]], kind: str = "") -> str:
    if not pictures:
        return ""
    figures = "".join(
        f"<figure><img src='{picture.uri}' width='{picture.width}' height='{picture.height}'"
        f" alt='{escape(caption, quote=True)}'><figcaption>{escape(caption)}</figcaption></figure>"
        for picture, caption in pictures
    )
    return f"<p>{escape(title)}</p><div class='gallery {kind}'>{figures}</div>"
