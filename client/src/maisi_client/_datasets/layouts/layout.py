"""The description of a layout, and functions that several layouts use."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..._atomic import atomic
from ..._errors import InvalidRequest, printable
from ..cases import Case, Common
from ..report_files import REPORTS
from ..row import Row

DESCRIPTION = "Synthetic volumes, made by generative models of masks. No patient was scanned."


@dataclass(frozen=True)
class CasePaths:
    """The files of a row: an image for each channel, or one for all, and a report for each.

    Reports are written last, so a case with all its reports is complete.
    """

    images: tuple[Path, ...]
    labels: Path
    reports: tuple[Path, ...]

    @property
    def files(self) -> tuple[Path, ...]:
        """All files of the row."""
        return *self.images, self.labels, *self.reports


@dataclass(frozen=True)
class Layout:
    """The paths and descriptions of a layout.

    `paths` maps a row to its files, relative to the dataset's folder. `common` is what its cases
    have in common. `reports` is a pattern for the paths of all reports. `elsewhere` maps a row and
    a folder to the row's reports in that folder that have other paths, because the row had another
    group or modality. `fields` maps a modality to the fields that the layout adds to the report.
    `describe` writes the files that describe the finished cases to a trainer. `signs` maps the name
    of such a file to a text that shows that this package wrote the file.
    """

    paths: Callable[[Row], CasePaths]
    common: Common
    reports: str = REPORTS
    elsewhere: Callable[[Row, Path], Sequence[Path]] = lambda row, folder: ()
    fields: Callable[[str], Mapping[str, Any]] = lambda modality: {}
    describe: Callable[[Sequence[Case]], None] = lambda cases: None
    signs: Mapping[str, str] = field(default_factory=dict)


def case_paths(
    name: str, images: Sequence[str], labels: str, channels: Sequence[str] = ()
) -> CasePaths:
    """Return the files of a row. `reports/` has a report for each of `channels`, or one report."""
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
                f"row '{row.name}' has neither mask nor anatomy; {layout} needs labels for each row"
            )


def consecutive(labels: Iterable[int]) -> dict[int, int]:
    """Map label ids to 1, 2, ..., because trainers expect consecutive ids; 0 is the background."""
    return {id_: number for number, id_ in enumerate(labels, 1)}


def dataset_name(folder: Path) -> str:
    """Return the name of a dataset, that of its folder, for a text in UTF-8."""
    return printable(folder.resolve().name)


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file atomically."""
    write_text(path, json.dumps(value, indent=2))


def write_text(path: Path, text: str) -> None:
    """Write a text, with a newline at its end, atomically."""
    with atomic(path) as draft:
        draft.write_text(text + "\n", encoding="utf-8")
