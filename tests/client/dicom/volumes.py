"""Volumes and masks that become DICOM, and what is read from the files."""

from __future__ import annotations

import json
import pkgutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pydicom
from maisi_client import Volume
from matplotlib.path import Path as Polygon
from numpy.typing import NDArray

RNG = np.random.default_rng(11)
SHAPE, SIZES = (12, 10, 14), (1.5, 0.75, 2.0)
REPORT = {
    **{"synthetic": True, "variant": "mini", "modality": "mri_t1", "seed": 7, "steps": 8},
    **{"guidance": 1.5, "weights": {"flow": "ab" * 32}, "versions": {"maisi": "0.1.0"}},
}
CT = {**REPORT, "modality": "ct", "variant": "rflow-ct"}
STANDARD = {
    name: json.loads(pkgutil.get_data("highdicom", f"_standard/{name}.json") or b"")
    for name in ("sop_class_iod_map", "iod_module_map", "module_attribute_map")
}


def volume(affine: Any = None, **report: Any) -> Volume:
    data = RNG.integers(-1000, 3000, SHAPE).astype(np.int16)
    return Volume(nib.Nifti1Image(data, np.eye(4) if affine is None else affine), {**CT, **report})


def mask_of(image: nib.Nifti1Image) -> nib.Nifti1Image:
    """Labels with sides, a lesion, one without a code, an unknown one; none in the end slices."""
    labels = np.zeros(image.shape, np.uint8)
    labels[2:5, 2:5, 3:9], labels[5:9, 2:5, 3:9] = 230, 229
    labels[2:9, 5:7, 3:6], labels[6, 6, 6], labels[7, 7, 4] = 176, 150, 99
    labels[8, 8, 5], labels[8, 7, 5], labels[3, 8, 4] = 117, 23, 250
    return nib.Nifti1Image(labels, image.affine)


def read(files: list[Path]) -> list[pydicom.Dataset]:
    return [pydicom.dcmread(path) for path in files]


def lacking(dataset: pydicom.Dataset) -> list[str]:
    """Return the attributes that are missing or empty by the standard's tables in highdicom."""
    iod = STANDARD["sop_class_iod_map"][dataset.SOPClassUID]
    modules = [m["key"] for m in STANDARD["iod_module_map"][iod] if m["usage"] == "M"]
    assert len(modules) > 5
    faults = []
    for attribute in (a for m in modules for a in STANDARD["module_attribute_map"].get(m, [])):
        if "FunctionalGroupsSequence" in "".join(attribute["path"]):
            continue  # allowed in either of two sequences, which the tables do not express
        items: list[Any] = [dataset]
        for step in attribute["path"]:
            items = [inner for item in items for inner in item.get(step) or []]
        for item in items:
            keyword, requirement = attribute["keyword"], attribute["type"]
            if requirement in ("1", "2") and keyword not in item:
                faults.append(f"{keyword} missing")
            elif requirement == "1" and item[keyword].is_empty:
                faults.append(f"{keyword} empty")
    return faults


def rasterised(
    structures: pydicom.Dataset, slices: Sequence[pydicom.Dataset]
) -> dict[int, NDArray[np.bool_]]:
    """Return the region `[slices, rows, columns]` of each ROI number of an RT Structure Set.

    A pixel is in it where its centre is within an odd number of contours of its slice.
    """
    numbers = {one.SOPInstanceUID: number for number, one in enumerate(slices)}
    shape = (len(slices), slices[0].Rows, slices[0].Columns)
    regions = {}
    for roi in structures.ROIContourSequence:
        region = np.zeros(shape, bool)
        for contour in roi.ContourSequence:
            (image,) = contour.ContourImageSequence
            number = numbers[image.ReferencedSOPInstanceUID]
            columns = _pixels(contour, slices[number])
            low = np.floor(columns.min(axis=0)).astype(int)
            high = np.ceil(columns.max(axis=0)).astype(int) + 1
            grid = np.stack(np.meshgrid(*map(np.arange, low, high), indexing="ij"), -1)
            inside = Polygon(columns).contains_points(grid.reshape(-1, 2))
            plane = region[number].T[low[0] : high[0], low[1] : high[1]]
            plane ^= inside.reshape(grid.shape[:2])[: plane.shape[0], : plane.shape[1]]
        regions[int(roi.ReferencedROINumber)] = region
    return regions


def _pixels(contour: pydicom.Dataset, image: pydicom.Dataset) -> NDArray[np.float64]:
    """Return the points of a contour as columns and rows of its image; they are in its plane."""
    assert contour.ContourGeometricType == "CLOSED_PLANAR"
    points = np.array(contour.ContourData, np.float64).reshape(-1, 3)
    assert len(points) == contour.NumberOfContourPoints >= 3
    offsets = points - np.array(image.ImagePositionPatient, np.float64)
    along_row, along_column = np.array(image.ImageOrientationPatient, np.float64).reshape(2, 3)
    assert np.abs(offsets @ np.cross(along_row, along_column)).max() < 1e-3
    between_rows, between_columns = image.PixelSpacing
    steps = [along_row / between_columns, along_column / between_rows]
    pixels: NDArray[np.float64] = offsets @ np.array(steps).T
    return pixels


def dice(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    """Return the overlap of two regions, 1 where they are equal."""
    return float(2 * (one & other).sum() / (one.sum() + other.sum()))
