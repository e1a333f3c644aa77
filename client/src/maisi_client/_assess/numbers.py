"""`report.json`: every number, the settings, and the digests of the images."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._atomic import atomic
from . import features
from .harmonising import COARSE, Harmony
from .reading import Dataset
from .sides import Side
from .verdicts import Verdict

if TYPE_CHECKING:
    from .run import Results

_FORM = 1  # version of the format of report.json
_DIGITS = 6


def document(
    results: Results,
    verdicts: Sequence[Verdict],
    datasets: Sequence[Dataset],
    harmony: Harmony,
    settings: Mapping[str, Any],
    skipped: Mapping[str, Mapping[str, str]],
) -> dict[str, Any]:
    """Return all measurements as JSON values; NaN and infinity become null."""
    measured = {
        side.role: side for side in (results.synthetic, results.real, results.train) if side
    }
    value = {
        "form": _FORM,
        "maisi_client": version("maisi-client"),
        "settings": {
            **settings,
            "modality": harmony.modality,
            "spacing_mm": list(harmony.spacing),
            "coarse_mm": harmony.extent / COARSE,
            "slices": features.SLICES,
            "built_in_features": list(features.NAMES),
        },
        "datasets": {
            dataset.role: {
                "folder": dataset.folder.name,
                "layout": dataset.layout,
                "volumes": len(measured[dataset.role]),
                "sha256": _digest(measured[dataset.role]),
                "skipped": dict(skipped[dataset.role]),
            }
            for dataset in datasets
        },
        "verdicts": [dataclasses.asdict(verdict) for verdict in verdicts],
        "realism": _plain(results.realism),
        "diversity": _plain(results.diversity),
        "obedience": _plain(results.obedience),
        "privacy": _plain(results.privacy),
        "bias": _plain(results.bias),
        "use": _plain(results.use),
        "volumes": {
            side.role: dict(zip(side.names, side.facts, strict=True)) for side in measured.values()
        },
    }
    clean: dict[str, Any] = _finite(value)
    return clean


def write(path: Path, report: Mapping[str, Any]) -> None:
    """Write a report in pieces, because the text for many volumes is large."""
    with atomic(path) as draft, draft.open("w", encoding="utf-8") as file:
        json.dump(report, file, indent=1, allow_nan=False)
        file.write("\n")


def _digest(side: Side) -> str:
    """Return the SHA-256 of the sorted digests of a dataset's images."""
    digests = sorted(facts["sha256"]["image"] for facts in side.facts)
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()


def _plain(value: Any) -> Any:
    return None if value is None else dataclasses.asdict(value)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.{_DIGITS}g}") if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value
