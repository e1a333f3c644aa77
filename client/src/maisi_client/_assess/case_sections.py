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

_ROWS = 14  # most rows of the table of labels


def obedience(result: Obedience, pictures: str) -> Iterator[str]:
    """Yield the section on labels, with pictures of the worst cases."""
    yield "<section><h2>Labels</h2>"
    yield (
        f"<p>The ratio of borders is the step in grey level where labels meet, divided by the step"
        f" where displaced labels meet. The ratio is 1 for a volume that ignores its labels, and at"
        f" least {FAITHFUL} for a volume that follows them. {result.unfaithful} of"
        f" {result.measured} volumes have a lower ratio.</p>"
    )
    yield KEY
    yield histogram(
        result.borders, result.real_borders, unit="ratio", limit=FAITHFUL, mark="faithful"
    )
    counts = ", ".join(f"{number} {word}" for word, number in result.reported.items() if number)
    apart = f"; {result.set_apart} more are in unfaithful/" if result.set_apart else ""
    yield f"<p class='note'>In the server's reports: {counts}{apart}.</p>"
    yield "<h3>Labels with the lowest contrast</h3>"
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
        "of held-out real volumes"
        if result.held_out
        else "of each training volume to the nearest other one"
    )
    yield (
        "<p>Distance of each volume to its nearest training volume, compared with the distance"
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
        f"{pictures}<p class='note'>Not detected: a copy of a part, a copy in another contrast, a"
        " strongly warped copy, and training data in the weights that no volume of the set shows."
        " Volumes made from masks of training patients have their anatomy. No measure here shows"
        " that a set is safe to publish.</p></section>"
    )
