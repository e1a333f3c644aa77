"""The layout of nnU-Net v2."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ..._errors import InvalidRequest
from ..cases import Case, Common
from ..groups import folds
from ..report_files import channel_end
from ..row import Row
from .layout import (
    DESCRIPTION,
    CasePaths,
    Layout,
    case_paths,
    consecutive,
    need_masks,
    write_json,
)
from .summary import Summary


def nnunet(summary: Summary) -> Layout:
    """Return the layout of a raw dataset of nnU-Net v2 (documentation/dataset_format.md).

    Labels are 0, 1, 2, ... Raises `InvalidRequest` for a row without labels, and for a folder whose
    name is not DatasetNNN_NAME.
    """
    if not re.fullmatch(r"Dataset\d{3}_\w+", summary.folder.resolve().name):
        raise InvalidRequest(
            f"the folder is '{summary.folder}'; nnU-Net expects the name DatasetNNN_NAME, such as"
            " Dataset501_Synthetic"
        )
    need_masks("nnunet", summary.rows)
    folder, labels, channels = summary.folder, summary.labels, summary.channel_names()
    ids = consecutive(labels)
    ends = [channel_end(number) for number in range(len(channels))]

    def paths(row: Row) -> CasePaths:
        images = [f"imagesTr/{row.name}{end}" for end in ends]
        return case_paths(row.name, images, "labelsTr", ends if summary.channels else ())

    def describe(cases: Sequence[Case]) -> None:
        names = {name: ids[id_] for id_, name in labels.items()}
        write_json(
            folder / "dataset.json",
            {
                "channel_names": channels,
                "labels": {"background": 0, **names},
                "numTraining": len(cases),
                "file_ending": ".nii.gz",
                "description": DESCRIPTION,
                "licence": summary.licence,
            },
        )
        splits = folds({case.name: case.group for case in cases})
        if splits:
            write_json(folder / "splits_final.json", splits)
        else:
            (folder / "splits_final.json").unlink(missing_ok=True)

    common = Common("nnunet", summary.channels, ids)
    return Layout(paths, common, describe=describe, signs={"dataset.json": DESCRIPTION})
