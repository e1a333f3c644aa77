"""The layout of the Medical Segmentation Decathlon."""

from __future__ import annotations

from collections.abc import Sequence

from ..cases import Case, Common
from ..report_files import channel_end
from ..row import Row
from .layout import (
    DESCRIPTION,
    CasePaths,
    Layout,
    case_paths,
    consecutive,
    dataset_name,
    need_masks,
    write_json,
)
from .summary import Summary


def msd(summary: Summary) -> Layout:
    """Return the layout of the Medical Segmentation Decathlon.

    MONAI's DecathlonDataset reads it. If there are several channels, they are the fourth axis of
    one image, as in the Decathlon's brain tumour task. Raises `InvalidRequest` for a row without
    labels.
    """
    need_masks("msd", summary.rows)
    folder, labels, channels = summary.folder, summary.labels, summary.channel_names()
    ids = consecutive(labels)
    ends = [channel_end(number) for number in range(len(summary.channels))]

    def paths(row: Row) -> CasePaths:
        return case_paths(row.name, [f"imagesTr/{row.name}"], "labelsTr", ends)

    def describe(cases: Sequence[Case]) -> None:
        names = {str(ids[id_]): name for id_, name in labels.items()}
        write_json(
            folder / "dataset.json",
            {
                "name": dataset_name(folder),
                "description": DESCRIPTION,
                "licence": summary.licence,
                "tensorImageSize": "4D" if len(channels) > 1 else "3D",
                "modality": channels,
                "labels": {"0": "background", **names},
                "numTraining": len(cases),
                "numTest": 0,
                "training": [
                    {"image": f"./{case.images[0]}", "label": f"./{case.labels}"} for case in cases
                ],
                "test": [],
            },
        )

    common = Common("msd", summary.channels, ids)
    return Layout(paths, common, describe=describe, signs={"dataset.json": DESCRIPTION})
