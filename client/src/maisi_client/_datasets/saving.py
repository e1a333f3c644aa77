"""Write the files of a case. The report comes last: a case with its reports is complete."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from .._atomic import atomic
from .._errors import MaisiError
from .._mask import label_image
from .._volume import Volume
from .layouts.layout import CasePaths, Layout, write_json
from .row import Row


def save_case(
    row: Row,
    volumes: Sequence[Volume],
    folder: Path,
    layout: Layout,
    license_: str,
) -> None:
    """Write the files of a row: first the labels and images, then the reports.

    `volumes` has a volume for each channel. `license_` is the licence of the weights. Raises
    `MaisiError` if the volumes have different grids or masks.
    """
    _check_alike(volumes)
    paths, mask = layout.paths(row), row.arguments.get("mask")
    for path in paths.files:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
    labels = volumes[0].mask or (mask and label_image(mask))
    if labels:
        with atomic(folder / paths.labels) as draft:
            nib.save(_numbered(labels, layout.common.label_ids), draft)
    images = [volume.image for volume in volumes]
    for path, image in zip(paths.images, _files(images, len(paths.images)), strict=True):
        with atomic(folder / path) as draft:
            nib.save(image, draft)
    labels_path = {"labels": paths.labels.as_posix()} if labels else {}
    for number, (path, volume) in enumerate(zip(paths.reports, volumes, strict=True)):
        image_path = paths.images[min(number, len(paths.images) - 1)].as_posix()
        record = {
            "name": row.name,
            "group": row.group,
            "files": {"image": image_path, **labels_path, **layout.common.entries()},
            "weights_license": license_,
            **({"plan_license": row.license} if row.license else {}),
            **layout.fields(volume.report["modality"]),
            **volume.report,
        }
        write_json(folder / path, record)


def update_report(path: Path, report: Mapping[str, Any], group: str, license_: str) -> None:
    """Write the group and the licence of a row into its `report`, if they are others.

    An empty `group` is not named by the plan, and the report keeps its own.
    """
    group = group or report["group"]
    if (report["group"], report.get("plan_license", "")) == (group, license_):
        return
    content = json.loads(path.read_text("utf-8"))  # `report` has only printable texts
    content.pop("plan_license", None)
    terms = {"plan_license": license_} if license_ else {}
    write_json(path, {**content, "group": group, **terms})


def remove_drafts(folders: Sequence[Path], cases: Sequence[CasePaths]) -> None:
    """Remove drafts of the files of these cases, which a killed process did not remove."""
    files = [path for paths in cases for path in paths.files]
    names = {path.name for path in files}
    for parent in {folder / path.parent for folder in folders for path in files}:
        for draft in parent.glob(".????????.*"):
            if draft.name[10:] in names:
                draft.unlink(missing_ok=True)


def _check_alike(volumes: Sequence[Volume]) -> None:
    """Raise `MaisiError` unless all volumes have the same grid and the same mask."""
    first = volumes[0]
    for volume in volumes[1:]:
        masks = [one.report["sha256"].get("used_mask") for one in (first, volume)]
        same_grid = first.image.shape == volume.image.shape and np.array_equal(
            first.image.affine, volume.image.affine
        )
        if not same_grid or masks[0] != masks[1]:
            raise MaisiError(
                f"the channels {first.report['modality']} and {volume.report['modality']} differ in"
                f" {'their mask' if same_grid else 'grid'}; the same one is expected"
            )


def _files(images: Sequence[Any], count: int) -> Sequence[Any]:
    """Return the images of a case for `count` files.

    If one file has several channels, its image is `[X, Y, Z, C]`.
    """
    if count == len(images):
        return images
    channels = np.stack([np.asarray(image.dataobj) for image in images], axis=-1)
    stacked = nib.Nifti1Image(channels, images[0].affine, images[0].header)
    stacked.header.set_xyzt_units("mm")
    stacked.header["descrip"] = images[0].header["descrip"]
    return [stacked]


def _numbered(mask: Any, ids: Mapping[int, int]) -> Any:
    """Return the mask with the ids of the dataset; a label without an id becomes background."""
    if not ids:
        return mask
    table = np.zeros(256, np.uint8)
    table[list(ids)] = list(ids.values())
    return nib.Nifti1Image(table[np.asarray(mask.dataobj)], mask.affine, mask.header)
