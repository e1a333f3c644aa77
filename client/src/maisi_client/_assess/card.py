"""A dataset card: `README.md` with the metadata that Hugging Face's datasets have."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._atomic import atomic
from .._errors import InvalidRequest, printable
from .._validation import JSON_BYTES

if TYPE_CHECKING:
    from .run import Assessment

_MARK = "<!-- written by maisi assess -->"
# https://huggingface.co/docs/hub/datasets-cards: the classes of `size_categories`.
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"))
_MOST_SEEDS = 8  # that are listed; with more, the least and the greatest


def write_card(folder: Path, result: Assessment) -> Path:
    """Write `README.md` beside the volumes of an assessment; return its path.

    It has the licence of the dataset's description, the seeds and the weights' digests of the
    reports, and the verdicts. Raises `InvalidRequest` if there is a README.md of another origin.
    """
    path = folder / "README.md"
    if path.is_file() and _MARK not in path.read_text(encoding="utf-8", errors="replace"):
        raise InvalidRequest(f"'{path}' is not by maisi assess; a folder without it is expected")
    with atomic(path) as draft:
        draft.write_text("\n".join(_card(folder, result)) + "\n", encoding="utf-8")
    return path


def _card(folder: Path, result: Assessment) -> Iterator[str]:
    report = result.report
    one = report["datasets"]["SYNTHETIC"]
    facts: Sequence[Mapping[str, Any]] = list(report["volumes"]["SYNTHETIC"].values())
    name, kind = printable(one["folder"], 100), report["settings"]["modality"].upper()
    licence = _licence(folder)
    size = next((word for most, word in _SIZES if len(facts) < most), "100K<n<1M")
    yield "---"
    yield f"pretty_name: {json.dumps(name)}"
    yield "license: other"
    yield f"license_name: {json.dumps(licence or 'see the licence of the weights')}"
    yield f"size_categories: [{json.dumps(size)}]"
    if any("label_ml" in fact for fact in facts):
        yield "task_categories: [image-segmentation]"
    yield f"tags: [medical, synthetic, {kind.lower()}, '3d', nifti, maisi]"
    yield "---"
    yield _MARK
    yield f"\n# {name}\n"
    yield (
        f"{len(facts)} synthetic volumes of {kind}, made by generative models of masks; layout"
        f" `{one['layout']}`. No patient was scanned. Not for diagnosis or treatment."
    )
    yield "\n## Is it any good?\n"
    yield "| question | verdict | |\n|---|---|---|"
    for verdict in result.verdicts:
        # A sentence may have names of files.
        sentence = escape(printable(verdict.sentence), quote=False).replace("|", "\\|")
        yield f"| {verdict.question} | {verdict.level} | {sentence} |"
    yield "\n## Where it comes from\n"
    yield f"- Licence: {licence or 'that of the weights and of the masks, which are not told here'}"
    for field, title in (("reported_variant", "Variant"), ("reported_modality", "Modality")):
        counts = Counter(str(fact[field]) for fact in facts if fact.get(field))
        if counts:
            shares = ", ".join(f"{name} ({number})" for name, number in sorted(counts.items()))
            yield f"- {title}: {printable(shares)}"
    seeds = sorted(fact["reported_seed"] for fact in facts if fact.get("reported_seed") is not None)
    if seeds:
        few = len(seeds) <= _MOST_SEEDS
        text = ", ".join(map(str, seeds)) if few else f"{seeds[0]} to {seeds[-1]}"
        yield f"- Seeds: {text}; that of each volume is in its report"
    for file, digest in sorted(_weights(facts)):
        yield f"- Weights `{file}`: SHA-256 `{digest}`"
    yield f"- SHA-256 of the images' digests: `{one['sha256']}`"
    yield f"- maisi-client {report['maisi_client']}"


def _licence(folder: Path) -> str:
    """Return the licence that the description of the layout has, empty without one."""
    for file, key in (("dataset.json", "licence"), ("dataset_description.json", "License")):
        try:
            with open(folder / file, "rb") as stream:
                value = json.loads(stream.read(JSON_BYTES))
        except (OSError, ValueError, RecursionError):
            continue
        if isinstance(value, dict) and isinstance(value.get(key), str):
            return printable(value[key], 200)
    return ""


def _weights(facts: Sequence[Mapping[str, Any]]) -> set[tuple[str, str]]:
    found = set()
    for fact in facts:
        weights = fact.get("reported_weights")
        if isinstance(weights, dict):
            found |= {(printable(str(k), 100), printable(str(v), 100)) for k, v in weights.items()}
    return found
