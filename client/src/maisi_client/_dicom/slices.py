"""The slices of the images that a DICOM Segmentation refers to."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .file import DICOM_ERRORS, check_size, is_dicom, read_dicom

if TYPE_CHECKING:
    import highdicom
    from pydicom.dataset import Dataset

_REGULAR = 0.01  # largest deviation of a slice from a multiple of the spacing, as in highdicom
_TOLERANCE_MM = 0.02  # largest distance of a frame from its image; covers rounded positions
_IN_PLANE_VOXELS = 0.05  # largest offset of an image from the segmentation's rows and columns
_TAGS = (
    *("SOPInstanceUID", "SeriesInstanceUID", "ImagePositionPatient", "ImageOrientationPatient"),
    *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"),
)


def referenced_positions(dataset: Dataset, folder: Path) -> NDArray[np.float64] | None:
    """Return the positions of the slices of the referenced series, `[slices, 3]`, LPS, mm.

    The single-frame or multi-frame images of the series are searched in `folder`. Images with
    another orientation, such as a localizer, are ignored. The result is None if a referenced image
    is missing, or unless exactly one series has an image at each frame.
    """
    references = dataset.get("ReferencedSeriesSequence", [])
    series = {str(one.get("SeriesInstanceUID")) for one in references}
    missing = {
        str(image.ReferencedSOPInstanceUID)
        for one in references
        for image in one.ReferencedInstanceSequence
    }
    orientation = np.array(_frames(dataset)[0][1], np.float64)
    positions: dict[str, list[list[float]]] = {}
    for path in filter(is_dicom, folder.iterdir() if missing else ()):
        try:
            header = read_dicom(path, stop_before_pixels=True, specific_tags=list(_TAGS))
            if (uid := str(header.get("SeriesInstanceUID"))) not in series:
                continue
            frames = _frames(header)
        except DICOM_ERRORS:
            continue  # not an image of a series, or incomplete
        missing.discard(str(header.SOPInstanceUID))
        parallel = [p for p, cosines in frames if np.allclose(cosines, orientation, atol=1e-3)]
        positions.setdefault(uid, []).extend(parallel)
    if missing:
        return None
    normal = np.cross(orientation[:3], orientation[3:])
    frame_distances = np.array([position for position, _ in _frames(dataset)], np.float64) @ normal
    fits = [
        np.array(one, np.float64)
        for one in positions.values()
        if one and _all_at_images(frame_distances, np.array(one, np.float64) @ normal)
    ]
    return fits[0] if len(fits) == 1 else None


def _all_at_images(frames: NDArray[np.float64], images: NDArray[np.float64]) -> bool:
    """Return whether each frame is at the position of an image along the normal."""
    return bool(np.abs(images[:, None] - frames).min(axis=0).max() < _TOLERANCE_MM)


def set_slice_spacing(dataset: Dataset, positions: NDArray[np.float64] | None) -> str | None:
    """Set the slice spacing of a Segmentation, where it is optional (PS3.3 C.7.6.16.2.1).

    The spacing is that of the images at `positions` if these are known, else that of the
    Segmentation, else the thickness of its slices. In the last case, return a warning, otherwise
    None. Raises ValueError if no spacing is known, or the images are not evenly spaced.
    """
    shared = dataset.SharedFunctionalGroupsSequence[0]
    groups = [shared, *dataset.PerFrameFunctionalGroupsSequence]
    measures = [
        group.PixelMeasuresSequence[0] for group in groups if "PixelMeasuresSequence" in group
    ]
    spacing, warning = None, None
    if positions is not None:
        spacing = _spacing_of(positions, _frames(dataset)[0][1])
    if spacing is None:
        spacing = measures[0].get("SpacingBetweenSlices")
    if spacing is None:
        spacing = measures[0].get("SliceThickness")
        warning = (
            f"it has no SpacingBetweenSlices, and not all images that it refers to are in its"
            f" folder; its SliceThickness, {spacing} mm, is used as the slice spacing"
        )
    if not spacing:
        raise ValueError("neither the file nor images in its folder have a slice spacing")
    for one in measures:
        one.SpacingBetweenSlices = spacing
        one.setdefault("SliceThickness", spacing)  # highdicom requires it
    return warning


def extended(volume: highdicom.Volume, positions: NDArray[np.float64] | None) -> highdicom.Volume:
    """Return a segmentation, which has only labelled frames, on all slices of its images."""
    if positions is None:
        return volume
    indices = volume.map_reference_to_indices(positions)
    slices = np.rint(indices[:, 0]).astype(int)
    if np.abs(indices - np.stack([slices, 0 * slices, 0 * slices], 1)).max() > _IN_PLANE_VOXELS:
        return volume  # the images have another grid
    before, after = max(0, -int(slices.min())), max(0, int(slices.max()) - volume.shape[0] + 1)
    check_size(volume.shape[0] + before + after, *volume.shape[1:])
    return volume.pad([(before, after), (0, 0), (0, 0)])


def _frames(header: Dataset) -> list[tuple[list[float], list[float]]]:
    """Return position and orientation of each frame of a single-frame or multi-frame image."""
    if "ImagePositionPatient" in header:
        return [(header.ImagePositionPatient, header.ImageOrientationPatient)]
    shared = header.SharedFunctionalGroupsSequence[0]
    frames = []
    for frame in header.PerFrameFunctionalGroupsSequence:
        position, orientation = (
            (frame if sequence in frame else shared)[sequence].value[0]
            for sequence in ("PlanePositionSequence", "PlaneOrientationSequence")
        )
        frames.append((position.ImagePositionPatient, orientation.ImageOrientationPatient))
    return frames


def _spacing_of(positions: NDArray[np.float64], orientation: list[float]) -> float | None:
    """Return the spacing of slices in mm; None for one slice. Slices may be missing or repeated.

    Raises ValueError if the slices are not evenly spaced.
    """
    cosines = np.array(orientation, np.float64)
    distances = np.sort(positions @ np.cross(cosines[:3], cosines[3:]))
    gaps = np.diff(distances)
    gaps = gaps[gaps > 1e-3]  # a slice may occur twice
    if not gaps.size:
        return None
    # Positions are often rounded to 0.01 mm, so fit the spacing to all of them.
    steps = np.cumsum(
        np.r_[0, np.rint(np.diff(distances) / np.median(gaps[gaps < 1.5 * gaps.min()]))]
    )
    spacing, first = np.polyfit(steps, distances, 1)
    deviation = np.abs(distances - first - steps * spacing).max()
    if deviation > max(_REGULAR * spacing, _TOLERANCE_MM / 2):
        raise ValueError("the images that it refers to are not evenly spaced")
    return round(float(spacing), 5)
