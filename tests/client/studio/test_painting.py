"""Painted masks keep the grid, whatever its order and orientation, and have known ids alone."""

from __future__ import annotations

import gzip
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from tests.client.studio.browser import Browser, labels, loaded, nifti

OBLIQUE = np.array([[0, -1.9, 0.3, 5], [2.1, 0, 0, -7], [0, 0.4, 2.2, 9], [0, 0, 0, 1]])


def paint(browser: Browser, picture: dict[str, Any], body: bytes, **headers: str) -> Any:
    path = f"/api/pictures/{picture['id']}/paint?variant=mini"
    return browser.ask("POST", path, body, **headers)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("affine", [np.diag([-2.0, 2, 3, 1]), OBLIQUE])
def test_the_voxels_are_in_the_order_of_the_file(
    browser: Browser, affine: Any, packed: bool
) -> None:
    values = labels()[:, :20, :10]
    parent = browser.uploaded("mask", ("p.nii.gz", nifti(values, affine)))
    painted = values.copy()
    painted[3, 5, 7] = 150
    body = painted.tobytes(order="F")
    headers = {"Content_Encoding": "gzip"} if packed else {}
    status, picture = paint(browser, parent, gzip.compress(body) if packed else body, **headers)
    assert status == 201 and picture["id"] != parent["id"], picture
    assert picture["affine"] == parent["affine"] and picture["shape"] == parent["shape"]
    contents = [browser.get(f"/api/pictures/{one['id']}.nii.gz") for one in (parent, picture)]
    old, new = map(loaded, contents)
    assert np.array_equal(new.dataobj, painted) and np.array_equal(old.dataobj, values)
    assert gzip.decompress(contents[1])[352:] == body
    for get in (nib.Nifti1Image.get_qform, nib.Nifti1Image.get_sform):
        assert np.array_equal(get(new), get(old))
    ids = {label["id"]: label["ml"] for label in picture["labels"]}
    millilitres = np.count_nonzero(painted == 150) * abs(np.linalg.det(affine[:3, :3])) / 1000
    assert ids[150] == pytest.approx(millilitres, abs=1e-3)


def test_a_painted_mask_is_generated_from(browser: Browser) -> None:
    parent = browser.uploaded("mask", ("g.nii.gz", nifti(labels())))
    painted = np.where(labels() == 22, np.uint8(150), labels())
    _, picture = paint(browser, parent, painted.tobytes(order="F"))
    job = browser.finished("volume", mask=picture["id"], arguments={"steps": 1})
    copied = browser.get(f"/api/pictures/{job['picture']}/command")
    assert copied["command"].startswith("maisi generate g-painted.nii.gz -o ")


def test_wrong_voxels_are_refused(browser: Browser) -> None:
    values = labels()[:8, :8, :8]
    parent = browser.uploaded("mask", ("w.nii.gz", nifti(values)))
    body = bytearray(values.tobytes(order="F"))
    before = len(browser.get("/api/pictures"))
    body[100] = 77
    bomb = gzip.compress(bytes(100 << 20))
    for sent, headers, status, sentence in (
        (bytes(body), {}, 400, "the painted mask has label 77, which mini does not have"),
        (bytes(511), {}, 400, "511 bytes of voxels were sent; 512 are expected"),
        (bytes(513), {}, 413, "more than 512 bytes of voxels were sent"),
        (bomb, {"Content_Encoding": "gzip"}, 413, "more than 512 bytes of voxels were sent"),
        (bytes(512), {"Content_Encoding": "gzip"}, 400, "the body is not gzip"),
        (gzip.compress(bytes(512))[:-9], {"Content_Encoding": "gzip"}, 400, "512 are expected"),
    ):
        answered, answer = paint(browser, parent, sent, **headers)
        assert answered == status and sentence in answer["error"]["message"]
    assert len(browser.get("/api/pictures")) == before


def test_ids_of_the_parent_stay_allowed(browser: Browser) -> None:
    values = np.full((8, 8, 8), 99, np.uint8)
    parent = browser.uploaded("mask", ("f.nii.gz", nifti(values)))
    values[0, 0, 0] = 22
    assert paint(browser, parent, values.tobytes(order="F"))[0] == 201


def test_only_masks_of_known_variants(browser: Browser) -> None:
    volume = browser.uploaded("volume", ("v.nii.gz", nifti(np.zeros((4, 4, 4), np.int16))))
    assert paint(browser, volume, bytes(64))[0] == 409
    mask = browser.uploaded("mask", ("v.nii.gz", nifti(np.zeros((4, 4, 4), np.uint8))))
    path = f"/api/pictures/{mask['id']}/paint?variant=nope"
    assert browser.error("POST", path, bytes(64))[0] == 400
    assert browser.ask("POST", path.partition("?")[0], bytes(64))[0] == 201  # the only variant
