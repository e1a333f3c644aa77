"""The sections of the page on single volumes: labels and privacy."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

import numpy as np

from .markup import KEY, short, table
from .obedience import FAITHFUL
from .plots import histogram
from .privacy import Privacy
from .summary import Obedience

_ROWS = 14  # of a table of labels


def obedience(result: Obedience, pictures: str) -> Iterator[str]:
    """Yield the section on labels, with pictures of the worst cases."""
    yield "<section><h2>Labels</h2>"
    yield (
        f"<p>The step in grey where labels meet, over that where displaced labels meet: 1 ignores"
        f" the labels, from {FAITHFUL} on a volume follows them. {result.measured} volumes were"
        f" measured, {result.unfaithful} are below.</p>"
    )
    yield KEY
    yield histogram(
        result.borders, result.real_borders, unit="ratio", limit=FAITHFUL, mark="faithful"
    )
    said = ", ".join(f"{number} {word}" for word, number in result.reported.items() if number)
    apart = f", {result.set_apart} were set apart in unfaithful/" if result.set_apart else ""
    yield f"<p class='note'>By the server's reports: {said}{apart}.</p>"
    yield "<h3>Labels that show least</h3>"
    yield table(
        ("label", "volumes", "contrast (sd)", "real", "edge shift (mm)", "spread (mm)"),
        [
            (
                escape(row.name),
                str(row.volumes),
                short(row.contrast),
                short(row.real_contrast),
                "" if row.shift_mm is None else f"{row.shift_mm:+.2f}",
                short(row.shift_spread_mm),
            )
            for row in result.labels[:_ROWS]
        ],
    )
    if result.organs:
        yield "<h3>Organs, median HU</h3>"
        yield table(
            ("organ", "volumes", "median", "real range", "outside"),
            [
                (
                    escape(organ.name),
                    str(len(organ.medians)),
                    short(float(np.median(organ.medians))),
                    f"{organ.low:g} to {organ.high:g}",
                    str(organ.outside),
                )
                for organ in result.organs
            ],
        )
    yield f"{pictures}</section>"


def privacy(result: Privacy, pictures: str) -> Iterator[str]:
    """Yield the section on privacy, with pictures of the closest pairs."""
    yield "<section><h2>Privacy</h2>"
    other = (
        "held-out real volumes" if result.held_out else "each training volume to the nearest other"
    )
    yield (
        "<p>The distance of each volume to its nearest training volume, beside that of"
        f" {other}. The line is the 5th percentile of the latter.</p>"
    )
    yield KEY
    picture = result.picture
    yield histogram(
        picture.synthetic, picture.real, unit="distance", limit=picture.floor, mark="floor"
    )
    yield table(
        ("space", "distance ratio", "nearest / second", "real", "share below floor", "p"),
        [
            (
                name,
                short(space.ratio),
                short(space.nearest),
                short(space.real_nearest),
                f"{space.below:.1%}",
                short(space.p),
            )
            for name, space in (("picture", picture), ("features", result.features))
        ],
    )
    yield (
        f"{pictures}<p class='note'>What this cannot show: a copy of a part, in another contrast,"
        " or turned far; what the weights hold and were not asked for. Volumes made from masks of"
        " training patients have their anatomy. No measure here says that a set is safe.</p>"
        "</section>"
    )
