"""The cleanup of a generated mask of the body: specks, gaps and organs in the wrong position.

The steps, their order, the ids and the distances are those of general_mask_generation_post_process
in scripts/utils.py of github.com/NVIDIA-Medtech/NV-Generate-CTMR at commit da438fe. Its
configs/label_dict.json has the ids.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from .morphology import CORNERS, Bits, Mask, grow, shrink

Box = tuple[slice, ...]

LIVER, SPLEEN, HEPATIC_VESSEL, AIRWAY, BODY = 1, 3, 25, 132, 200
LUNG_TUMOR, HEPATIC_TUMOR, COLON_CANCER, BONE_LESION = 23, 26, 27, 128
LUNG_LOBES = [28, 29, 30, 31, 32]
STOMACH, DUODENUM, SMALL_BOWEL, COLON = 12, 13, 19, 62

# The organ that replaces each tumour that was not requested.
ORGAN_OF = {LUNG_TUMOR: 28, 24: 4, HEPATIC_TUMOR: LIVER, COLON_CANCER: COLON, BONE_LESION: BODY}

# Organs of one piece, in the order in which they are closed. A later organ may replace voxels of an
# earlier one, so the gallbladder (10) is closed twice. With a bone lesion, bones (33 and up) may
# have several pieces.
ORGANS = [1, 4, 10, 12, 3, *LUNG_LOBES, 5, 14, 13, 6, 7, 8, 9, 10]
BONES = list(range(33, 60))


def clean(labels: Mask, tumour: int | None) -> Mask:
    """Return a cleaned copy of `labels` [X, Y, Z]; `tumour` is the requested id, or None.

    `tumour` is one of 23, 24, 26, 27 and 128. The steps are, in this order:

    - only the largest piece of the body is kept, without parts thinner than three voxels;
    - every other tumour becomes its organ, and gaps in the requested tumour are closed;
    - only the largest piece of this tumour (in lung, pancreas or colon), and of every organ of one
      piece, is kept; the other pieces become body;
    - parts of small bowel and colon apart from the largest piece of the intestines become body;
    - gaps of up to two voxels in these organs are closed, whatever their label is;
    - a tumour of lung, liver or colon, the liver and the spleen get removed voxels near them back;
    - hepatic vessels become liver; the airway and the tumour, unless hepatic, are restored.
    """
    data = np.where(_body(labels != 0), labels, np.uint8(0))
    for lesion, organ in ORGAN_OF.items():
        if lesion != tumour:
            data[data == lesion] = organ
    if tumour is not None:
        close(data, [tumour])
        if tumour not in (HEPATIC_TUMOR, BONE_LESION):
            keep_largest(data, [tumour])
    tumour_mask = data == tumour if tumour is not None else np.zeros(data.shape, bool)

    original = data.copy()
    organs = ORGANS if tumour == BONE_LESION else ORGANS + BONES
    keep_largest(data, organs)
    removed = data != original
    del original
    astray = _astray_bowel(data)
    data[astray] = BODY
    close(data, organs)

    if tumour_mask.any():
        if tumour == LUNG_TUMOR:
            _around_lung_tumor(data, removed)
        elif tumour == HEPATIC_TUMOR:
            _around_hepatic_tumor(data, removed, astray)
            # The source tries to restore it in the liver, but its mask (`> 1`) is always empty.
            tumour_mask[:] = False
        elif tumour == COLON_CANCER:
            data[removed & _near(data, COLON_CANCER, 2)] = COLON_CANCER
    data[labels == HEPATIC_VESSEL] = LIVER
    data[labels == AIRWAY] = AIRWAY
    if tumour is not None:
        data[tumour_mask] = tumour
    return data


def keep_largest(data: Mask, ids: Sequence[int], replacement: int = BODY) -> None:
    """Keep the largest piece of each label in `ids`, in place; other pieces become `replacement`.

    The method is that of supress_non_largest_components in scripts/utils.py. It keeps the two most
    frequent values among the numbers of the pieces and the remaining voxels. Two pieces that are
    both larger than the rest of the volume are therefore kept, and the rest becomes `replacement`.
    If pieces are equal, the last one is kept, or any one if there are more than 16 (numpy.argsort).
    """
    boxes = ndimage.find_objects(data, max_label=max(ids))
    for label in dict.fromkeys(ids):
        box = boxes[label - 1]
        if box is None:
            continue
        part = data[box] == label
        pieces, count = ndimage.label(part, CORNERS)
        if count < 2:
            continue
        pieces = pieces[part]
        sizes = np.bincount(pieces, minlength=count + 1)
        sizes[0] = data.size - pieces.size
        dropped = np.ones(count + 1, bool)
        dropped[np.argsort(sizes)[-2:]] = False
        data[box][part] = np.where(dropped, replacement, label).astype(np.uint8)[pieces]
        if dropped[0]:
            rest = np.ones(data.shape, bool)
            rest[box] = ~part
            data[rest] = replacement


def close(data: Mask, ids: Sequence[int]) -> None:
    """Fill gaps of each label in turn, in place, where a cube of 3 voxels a side does not fit.

    The method is that of organ_fill_by_closing in scripts/utils.py, which closes twice; the second
    closing has no effect. Voxels on a face of the volume are never added.
    """
    # Closing adds nothing outside of a label's box, so the boxes are found once for all labels.
    boxes = ndimage.find_objects(data, max_label=max(ids))
    for label in ids:
        box = boxes[label - 1]
        if box is not None:
            part = data[_wider(box, 1)]
            part[shrink(grow(part == label))] = label


def _body(inside: Bits) -> Bits:
    """Return the largest piece of `inside` after erosion, then dilated."""
    piece = shrink(inside).view(np.uint8)
    keep_largest(piece, [1], replacement=0)
    return grow(piece.view(bool))


def _astray_bowel(data: Mask) -> Bits:
    """Return where small bowel and colon are apart from the largest piece of the intestines."""
    bowel: Bits = (data == SMALL_BOWEL) | (data == COLON)
    piece = (bowel | (data == STOMACH) | (data == DUODENUM)).view(np.uint8)
    keep_largest(piece, [1], replacement=0)
    bowel &= piece == 0
    return bowel


def _around_lung_tumor(data: Mask, removed: Bits) -> None:
    around = _near(data, LUNG_TUMOR, 1) & (data != LUNG_TUMOR)
    votes = np.bincount(data[around], minlength=256)
    votes[0] = 0
    lobe = int(np.argmax(votes))  # 0 if nothing is around; the source raises then
    distance = 2
    if lobe in LUNG_LOBES:
        distance = 3
        around = _near(data, LUNG_TUMOR, 2) & (data != LUNG_TUMOR)
        data[around & _near(data, lobe, 3)] = lobe
    data[removed & _near(data, LUNG_TUMOR, distance)] = LUNG_TUMOR
    close(data, LUNG_LOBES)


def _around_hepatic_tumor(data: Mask, removed: Bits, astray: Bits) -> None:
    for organ, candidates in ((LIVER, astray), (SPLEEN, removed)):
        for _ in range(2):
            data[candidates & _near(data, organ, 3)] = organ
    data[removed & _near(data, HEPATIC_TUMOR, 2)] = HEPATIC_TUMOR
    close(data, [LIVER])


def _near(data: Mask, label: int, distance: int) -> Bits:
    """Return where `label` is within `distance` voxels along every axis."""
    near = np.zeros(data.shape, bool)
    box = ndimage.find_objects(data, max_label=label)[label - 1]
    if box is not None:
        box = _wider(box, distance)
        near[box] = data[box] == label
        for _ in range(distance):
            near[box] = grow(near[box])
    return near


def _wider(box: Box, margin: int) -> Box:
    return tuple(slice(max(side.start - margin, 0), side.stop + margin) for side in box)
