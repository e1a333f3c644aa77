"""The sections of the page for whole sets: realism, diversity, distributions, training, method."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

import numpy as np

from .._counted import counted
from .bias import Bias, Quantity
from .diversity import Diversity
from .markup import KEY, short, table
from .plots import REAL, SYNTHETIC, Interval, histogram, intervals
from .realism import Realism
from .use import Use

_PLOTS = 6  # most distributions that are plotted


def realism(result: Realism) -> Iterator[str]:
    """Yield the section on realism."""
    yield "<section><h2>Realism</h2>"
    yield (
        "<p>Distance between slices of synthetic and of real volumes, compared with the distance"
        " between two halves of the real volumes. Dots are medians over random halves, lines reach"
        " from the 5th to the 95th percentile.</p>"
    )
    yield KEY
    rows = [("FID", result.fid), *((f"FID, {name}", one) for name, one in result.groups.items())]
    yield intervals(
        [
            (name, [Interval(REAL, *one.real), Interval(SYNTHETIC, *one.synthetic)])
            for name, one in rows
        ],
        log=True,
    )
    # KID and MMD are about 0 for equal sets, so their ratio has no meaning.
    squared = (("KID", result.kid), ("MMD, of volumes", result.mmd))
    rows[1:1] = squared
    yield table(
        ("", "all volumes", "halves: synthetic", "halves: real", "ratio", "p"),
        [
            (
                escape(name),
                short(one.value),
                short(one.synthetic[0]),
                short(one.real[0]),
                "" if (name, one) in squared else short(one.ratio),
                short(one.p),
            )
            for name, one in rows
        ],
    )
    yield "</section>"


def diversity(result: Diversity, pictures: str) -> Iterator[str]:
    """Yield the section on diversity, with pictures of duplicates."""
    yield "<section><h2>Diversity</h2>"
    own, real = result.synthetic, result.real
    yield (
        f"<p>MS-SSIM of {own.pairs} random pairs; equal volumes have 1. Lines are 95 % intervals of"
        " the mean.</p>"
    )
    parts = [Interval(SYNTHETIC, own.mean, own.low, own.high)]
    if real:
        parts.insert(0, Interval(REAL, real.mean, real.low, real.high))
    yield KEY + intervals([("MS-SSIM", parts)])
    if result.halves:
        yield (
            "<p>Precision and density: the share of synthetic volumes that lie among real ones."
            " Recall and coverage: the share of the real set that the synthetic set reaches. Half"
            " of the synthetic volumes, and half of the real volumes, are compared with the other"
            " half of the real volumes.</p>"
        )
        names = ("precision", "recall", "density", "coverage")
        yield intervals(
            [
                (
                    name,
                    [Interval(side, *result.halves[side][name]) for side in (REAL, SYNTHETIC)],
                )
                for name in names
            ]
        )
    yield (
        f"<p>{result.duplicated:.1%} of the volumes have a near copy in the set"
        f" ({counted(len(result.duplicates), 'pair')}). Files with the same bytes as another file:"
        f" {result.same_files}.</p>"
    )
    yield f"{pictures}</section>"


def bias(result: Bias) -> Iterator[str]:
    """Yield the section on distributions."""
    yield "<section><h2>Distributions</h2>"
    different = sorted(
        (one for one in result.quantities if one.distance is not None),
        key=lambda one: (not one.differs, -(one.distance or 0)),
    )
    if different:
        yield KEY
    for one in different[:_PLOTS]:
        yield f"<h3>{escape(one.name)}</h3>"
        yield histogram(one.synthetic, one.real, unit=one.unit)
    if different:
        yield "<h3>All</h3>"
        yield table(
            (
                "quantity",
                "synthetic",
                "real",
                "distance",
                "p",
                "share in each quarter of the real set",
            ),
            [_quantity(one) for one in different],
        )
    else:
        yield table(
            ("quantity", "median", "5th to 95th percentile"),
            [
                (
                    f"{escape(one.name)} ({one.unit})",
                    short(float(np.median(one.synthetic))),
                    _range(one),
                )
                for one in result.quantities
            ],
        )
    yield "</section>"


def use(result: Use) -> Iterator[str]:
    """Yield the section on the trained networks."""
    yield "<section><h2>Training</h2>"
    yield (
        f"<p>Dice, mean over labels, of a small UNet on {result.tested} real volumes that were in"
        f" no training set. Lines are 95 % intervals. Each network had {result.steps} of"
        f" {result.planned} steps.</p>"
    )
    rows = [
        ("trained on synthetic", SYNTHETIC, result.synthetic),
        ("trained on real", REAL, result.real),
        ("trained on both", SYNTHETIC, result.both),
    ]
    yield intervals(
        [(name, [Interval(side, one.mean, one.low, one.high)]) for name, side, one in rows]
    )
    yield table(
        ("label", "trained on synthetic", "on real", "on both"),
        [
            (escape(label), *(short(one.labels[label]) for _, _, one in rows))
            for label in result.real.labels
        ],
    )
    yield "</section>"


def method(report: Mapping[str, Any]) -> Iterator[str]:
    """Yield the section on settings and datasets."""
    settings = report["settings"]
    spacing = " x ".join(f"{mm:g}" for mm in settings["spacing_mm"])
    window = (
        "-1000 to 1000 HU are mapped to 0 to 1"
        if settings["modality"] == "ct"
        else "0 to the 99.5th percentile of each volume are mapped to 0 to 1"
    )
    yield "<section><h2>Method</h2>"
    yield (
        f"<p>Every volume is reoriented to RAS+ and resampled to {spacing} mm; volumes with a finer"
        f" spacing are blurred first. {window}. The features of {settings['slices']} slices of each"
        " plane are compared"
        f" ({escape(str(settings['features']))}). Whole volumes are compared at voxels of"
        f" {settings['coarse_mm']:.2f} mm. Seed {settings['seed']}, maisi-client"
        f" {escape(report['maisi_client'])}. Every number is in report.json.</p>"
    )
    yield table(
        ("dataset", "folder", "layout", "volumes", "SHA-256 of its images"),
        [
            (
                role.lower().lstrip("-"),
                escape(one["folder"]),
                one["layout"],
                str(one["volumes"]),
                one["sha256"][:16],
            )
            for role, one in report["datasets"].items()
        ],
    )
    left_out = [
        (escape(name), f"<td class='wide'>{escape(why)}</td>")
        for one in report["datasets"].values()
        for name, why in one["skipped"].items()
    ]
    if left_out:
        yield "<h3>Left out</h3><table><tr><th>volume</th><th>reason</th></tr>"
        yield "".join(f"<tr><td>{name}</td>{why}</tr>" for name, why in left_out) + "</table>"
    yield "</section>"


def _quantity(one: Quantity) -> tuple[str, ...]:
    return (
        f"{escape(one.name)} ({escape(one.unit)})",
        short(float(np.median(one.synthetic))),
        short(float(np.median(one.real))),
        short(one.distance) + (" *" if one.differs else ""),
        short(one.p),
        ", ".join(f"{share:.0%}" for share in one.quarters),
    )


def _range(one: Quantity) -> str:
    low, high = np.percentile(one.synthetic, [5, 95]).tolist()
    return f"{short(low)} to {short(high)}"
