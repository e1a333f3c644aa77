"""The layout `plain`: folders of images, labels and reports."""

from __future__ import annotations

from collections.abc import Sequence

from ..cases import Common
from ..row import Row
from .layout import CasePaths, Layout, case_paths


def plain(channels: Sequence[str]) -> Layout:
    """Return the layout with `images/NAME.nii.gz`, or `images/NAME_MODALITY.nii.gz` per channel."""
    ends = [f"_{channel}" for channel in channels] or [""]

    def paths(row: Row) -> CasePaths:
        return case_paths(row.name, [f"images/{row.name}{end}" for end in ends], "labels", ends)

    return Layout(paths, Common("plain", channels))
