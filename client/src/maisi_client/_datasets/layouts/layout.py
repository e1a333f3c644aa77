"""What a layout is, and what layouts share."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..._atomic import atomic
from ..._errors import InvalidRequest
from ..cases import Case
from ..row import Row

DESCRIPTION = "Synthetic volumes, made by generative models of masks. No patient was scanned."
_REPORTS = "reports/*.json"


@dataclass(frozen=True)
class CasePaths:
    """The files of a row: an image and a report for each channel, or one image for all.

    Reports are written last, so a case that has all of them is whole.
    """

    images: tuple[Path, ...]
    labels: Path
    reports: tuple[Path, ...]

    @property
    def files(self) -> tuple[Path, ...]:
        """All of them."""
        return *self.images, self.labels, *self.reports


@dataclass(frozen=True)
class Layout:
    """`paths` maps a row to its files, relative to the dataset's folder.

    `reports` is the pattern of the paths of all reports, and `fields` what the layout adds to that
    of an image of a modality. `ids` map MAISI's label ids to the dataset's, empty where they are
    the same. `describe` writes the files that describe the finished
    cases to a trainer; `signs` map these files to a text that is in those written here.
    """

    paths: Callable[[Row], CasePaths]
    reports: str = _REPORTS
    fields: Callable[[str], Mapping[str, Any]] = lambda modality: {}
    ids: Mapping[int, int] = field(default_factory=dict)
    describe: Callable[[Sequence[Case]], None] = lambda cases: None
    signs: Mapping[str, str] = field(default_factory=dict)


def case_paths(
    name: str, images: Sequence[str], labels: str, channels: Sequence[str] = ()
) -> CasePaths:
    """Return paths where reports are in `reports` and have the names of the `channels`."""
    return CasePaths(
        tuple(Path(f"{image}.nii.gz") for image in images),
        Path(labels, f"{name}.nii.gz"),
        tuple(Path("reports", f"{name}{channel}.json") for channel in channels or [""]),
    )


def need_masks(layout: str, rows: Sequence[Row]) -> None:
    """Raise `InvalidRequest` for a row without labels."""
    for row in rows:
        if not row.arguments.keys() & {"mask", "anatomy"}:
            raise InvalidRequest(
                f"row '{row.name}' has neither mask nor anatomy; {layout} wants labels for each"
            )


def consecutive(labels: Iterable[int]) -> dict[int, int]:
    """Map label ids to 1, 2, ..., as trainers expect them; 0 is the background."""
    return {id_: number for number, id_ in enumerate(labels, 1)}


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file whole or not at all."""
    write_text(path, json.dumps(value, indent=2))


def write_text(path: Path, text: str) -> None:
    """Write a text, which gets an end of line, whole or not at all."""
    with atomic(path) as draft:
        draft.write_text(text + "\n", encoding="utf-8")
