"""Uploads become pictures, whatever was sent; downloads have the same voxels and affine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from maisi_client._studio import multipart
from maisi_client._studio.pictures import Pictures

from tests.client.studio.browser import Browser, labels, loaded, nifti, series, studio


@pytest.fixture(scope="module")
def page():
    with studio("127.0.0.1:9") as browser:
        yield browser


def test_a_mask_comes_back_as_it_was(page: Browser) -> None:
    content = nifti(labels())
    picture = page.uploaded("mask", ("My brain (1).nii.gz", content))
    assert picture["kind"] == "mask" and picture["title"] == "My brain (1).nii.gz"
    assert picture["name"] == "My-brain-1"
    assert picture["shape"] == [32, 32, 32] and picture["spacing"] == [2, 2, 2]
    counts = np.bincount(labels().ravel(), minlength=256)
    assert {label["id"]: label["ml"] for label in picture["labels"]} == {
        id_: pytest.approx(n * 0.008) for id_, n in enumerate(counts.tolist()) if n and id_
    }
    assert picture["report"] is picture["request"] is picture["mask"] is None
    path = f"/api/pictures/{picture['id']}.nii.gz"
    _, headers, body = page.raw("GET", path, page.headers)
    assert headers["content-disposition"] == 'attachment; filename="My-brain-1.nii.gz"'
    assert headers["content-type"] == "application/gzip" and "content-encoding" not in headers
    image = loaded(body)
    assert np.array_equal(image.dataobj, labels()) and image.get_data_dtype() == np.uint8
    assert np.array_equal(image.affine, loaded(content).affine)
    assert np.array_equal(image.affine, picture["affine"])


@pytest.mark.parametrize("dtype", [np.int16, np.float64])
def test_a_volume_keeps_its_values(page: Browser, dtype: Any) -> None:
    values = np.random.default_rng(0).normal(0, 300, (8, 9, 10)).astype(dtype)
    picture = page.uploaded("volume", ("a.nii.gz", nifti(values)))
    image = loaded(page.get(f"/api/pictures/{picture['id']}.nii.gz"))
    stored = np.asarray(image.dataobj)
    assert stored.dtype == (np.int16 if dtype is np.int16 else np.float32)
    assert np.array_equal(stored, values.astype(np.float32))


def test_names_are_never_taken_twice(page: Browser) -> None:
    content = nifti(labels()[:8, :8, :8])
    names = [page.uploaded("mask", (name, content))["name"] for name in ("x.nii.gz",) * 3]
    assert names == ["x", "x-2", "x-3"]
    assert page.uploaded("mask", ("X.nii.gz", content))["name"] == "X-4"
    odd = [
        "../../etc/passwd.nii.gz",
        "C:\\x\\y.nii.gz",
        "ü.nii.gz",
        "....nii.gz",
        "a\u202eb.nii.gz",
    ]
    pictures = [page.uploaded("mask", (name, content)) for name in odd]
    assert [picture["name"] for picture in pictures] == [
        "passwd",
        "y",
        "picture",
        "picture-2",
        "a-b",
    ]
    assert pictures[0]["title"] == "passwd.nii.gz" and "\u202e" not in pictures[-1]["title"]


def test_labels_that_are_named_in_the_header_become_maisis(page: Browser) -> None:
    image = nib.Nifti1Image((labels() == 22).astype(np.uint8) * 5, np.eye(4))
    xml = b'<LabelTable><Label Key="5"><![CDATA[liver]]></Label></LabelTable>'
    image.header.extensions.append(nib.nifti1.Nifti1Extension(0, xml))
    picture = page.uploaded("mask", ("total.nii", image.to_bytes()))
    assert [(label["id"], label["name"]) for label in picture["labels"]] == [(1, "liver")]
    assert picture["vocabulary"] == "maisi" and "5 liver became 1" in picture["warnings"][0]
    assert "total.nii" in picture["warnings"][0]
    assert set(np.unique(loaded(page.get(f"/api/pictures/{picture['id']}.nii.gz")).dataobj)) == {
        0,
        1,
    }


def test_a_folder_of_dicom_is_a_series_or_its_mask(page: Browser, tmp_path: Path) -> None:
    files = series(tmp_path)
    upload = [(f"scans/ct/{name}", content) for name, content in files.items()]
    upload.append(("scans/ct/readme.txt", b"not DICOM"))
    volume = page.uploaded("volume", *upload[::-1])
    assert volume["title"] == volume["name"] == "ct"
    image = loaded(page.get(f"/api/pictures/{volume['id']}.nii.gz"))
    values = nib.as_closest_canonical(image)
    assert np.array_equal(values.dataobj, np.where(labels() > 0, 40, -1000))
    assert np.allclose(values.affine, np.diag([2, 2, 3, 1]))
    mask = page.uploaded("mask", *upload)
    ras = nib.as_closest_canonical(loaded(page.get(f"/api/pictures/{mask['id']}.nii.gz")))
    assert np.array_equal(ras.dataobj, labels()) and np.allclose(ras.affine, values.affine)
    alone = page.uploaded("mask", ("mask.dcm", files["mask.dcm"]))
    assert alone["name"] == "mask" and alone["labels"] == mask["labels"]


def test_wrong_files_are_one_sentence(page: Browser, tmp_path: Path) -> None:
    files = series(tmp_path)
    text = ("a.nii.gz", b"not an image")
    nan = nifti(np.full((4, 4, 4), np.nan, np.float32))
    cut = nifti(np.arange(64**3, dtype=np.int16).reshape(64, 64, 64))[:5000]
    slices = [(name, content) for name, content in files.items() if name[0] == "0"]
    gap = [one for one in slices if one[0] not in ("0003.dcm", "0004.dcm")]
    for kind, sent, sentence in (
        ("mask", [text], "mask 'a.nii.gz' is not an image that can be read"),
        ("volume", [text], "source 'a.nii.gz' is not an image that can be read"),
        (
            "mask",
            [("a.exe", b"MZ")],
            "mask 'a.exe' is not an image that can be read: its name ends",
        ),
        ("mask", [("a.nii.gz", nifti(np.full((4, 4, 4), 300, np.int16)))], "'a.nii.gz' holds 300"),
        ("mask", [("a.nii.gz", nifti(np.zeros((4, 4, 4, 2), np.uint8)))], "three dimensions"),
        ("volume", [("a.nii.gz", nan)], "source 'a.nii.gz' holds NaN"),
        ("volume", [("a.nii.gz", cut)], "source 'a.nii.gz' cannot be read to its end"),
        ("mask", [text, text], "2 files were sent, and none is DICOM"),
        ("mask", slices, "0 of 32 files are Segmentations"),
        ("mask", slices[:1], "mask '0001.dcm' is DICOM of CT Image Storage"),
        ("volume", [("mask.dcm", files["mask.dcm"])], "the files have no series of slices"),
        ("volume", gap, "the series is not a volume on a regular grid"),
        ("volume", [("a.dcm", bytes(128) + b"DICMxyz")], "the files have no series of slices"),
    ):
        status, answer = page.upload(kind, *sent)
        assert status == 400 and sentence in answer["error"]["message"], answer
        assert "/" not in answer["error"]["message"].replace(".nii/", ""), answer
    before = page.get("/api/pictures")
    assert all(picture["title"] != "a.nii.gz" or picture["kind"] == "volume" for picture in before)


def test_bodies_that_are_no_upload(page: Browser) -> None:
    path, boundary = "/api/pictures?kind=mask", "multipart/form-data; boundary=b"
    whole = (
        b'--b\r\nContent-Disposition: form-data; name="f"; filename="a.nii"\r\n\r\nx\r\n--b--\r\n'
    )
    field = b'--b\r\nContent-Disposition: form-data; name="f"\r\n\r\nx\r\n--b--\r\n'
    assert page.error("POST", "/api/pictures", whole, Content_Type=boundary)[1].startswith(
        "kind is"
    )
    for content_type in ("application/json", "multipart/form-data", ""):
        status, sentence = page.error("POST", path, whole, Content_Type=content_type)
        assert (status, sentence) == (400, "files are expected, as multipart/form-data")
    for body in (b"", b"nonsense", whole[:40], whole[:-8], field):
        status, sentence = page.error("POST", path, body, Content_Type=boundary)
        assert (status, sentence) == (400, "no complete file arrived; send it again")


def test_uploads_are_bounded(page: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    length = {"Content-Length": str(3 << 30), "Content-Type": "multipart/form-data; boundary=b"}
    headers = {**page.headers, **length}
    status, _, body = page.raw("POST", "/api/pictures?kind=mask", headers, b"--b\r\n")
    assert status == 413 and b"more than 2 GiB were sent" in body
    monkeypatch.setattr(multipart, "MAX_BYTES", 1000)
    assert page.upload("mask", ("a.nii", bytes(2000)))[0] == 413
    head = b'--b\r\nContent-Disposition: form-data; name="f"; filename="a"\r\n\r\n'
    chunked = {**page.headers, "Content-Type": length["Content-Type"]}  # without a length
    chunks = iter([head, b"x" * 600, b"x" * 600])
    assert page.raw("POST", "/api/pictures?kind=mask", chunked, chunks)[0] == 413
    monkeypatch.setattr(multipart, "MAX_FILES", 2)
    status, answer = page.upload("mask", *[("a", b"x")] * 3)
    assert status == 413 and answer["error"]["message"] == "more than 2 files were sent"


def test_a_picture_is_removed_with_its_file(page: Browser) -> None:
    picture = page.uploaded("mask", ("gone.nii.gz", nifti(labels()[:8, :8, :8])))
    path = f"/api/pictures/{picture['id']}"
    assert page.ask("DELETE", path)[0] == 204
    for method, address in (("GET", f"{path}.nii.gz"), ("DELETE", path)):
        assert page.error(method, address)[0] == 404
    assert picture["id"] not in {one["id"] for one in page.get("/api/pictures")}


def test_a_file_that_is_removed_meanwhile_is_not_found(
    page: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture = page.uploaded("mask", ("late.nii.gz", nifti(labels()[:8, :8, :8])))
    monkeypatch.setattr(Pictures, "path", lambda self, _: self.folder / "missing.nii.gz")
    status, sentence = page.error("GET", f"/api/pictures/{picture['id']}.nii.gz")
    assert (status, sentence) == (404, "there is no such picture; it may have been removed")


def test_what_was_not_generated_has_no_report(page: Browser) -> None:
    picture = page.uploaded("mask", ("r.nii.gz", nifti(labels()[:8, :8, :8])))
    status, sentence = page.error("GET", f"/api/pictures/{picture['id']}/report.json")
    assert status == 404 and sentence == "'r.nii.gz' has no report; it was not generated"
