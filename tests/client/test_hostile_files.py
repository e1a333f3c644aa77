"""Invalid files: one sentence each, in bounded memory."""

from __future__ import annotations

import copy
import gzip
import json
import re
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from maisi_client import InvalidRequest, MaisiError, MaskError, Volume, read_plan
from maisi_client._dicom.segmentation_reader import read_segmentation
from maisi_client._dicom.segmentation_writer import require_dicom
from maisi_client._errors import printable
from maisi_client._mask import load_greys, load_mask

# Reads a mask and a source in its own process; prints what was said, and how much more memory it
# had at its peak than before, in MB: by VmHWM, since getrusage's peak includes the parent's.
PROBE = """
import re, sys
from pathlib import Path
import maisi_client
from maisi_client._mask import load_mask, load_greys
if "dcm" in sys.argv[1]:
    import highdicom
def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) >> 10
for path in sys.argv[1:]:
    for load in (load_mask, load_greys):
        before = peak()
        try:
            said = str(load(path).values.shape)
        except maisi_client.MaisiError as error:
            said = f"{type(error).__name__}: {error}"
        print(f"{peak() - before}\t{said}")
"""
SMALL_MB = 150  # of which imports that come late are the most


def probe(*paths: Path) -> list[str]:
    """Return the result of loading files, each as a mask and as a source, in little memory."""
    result = subprocess.run(
        [sys.executable, "-c", PROBE, *map(str, paths)], capture_output=True, text=True, timeout=250
    )
    assert result.returncode == 0 and "Traceback" not in result.stderr, result.stderr
    lines = result.stdout.splitlines()
    assert len(lines) == 2 * len(paths), "a sentence is one line"
    pairs = [line.split("\t", 1) for line in lines]
    for megabytes, sentence in pairs:
        assert int(megabytes) < SMALL_MB, sentence
    return [sentence for _, sentence in pairs]


def nifti(
    shape: tuple[int, ...],
    dtype: Any = np.uint8,
    kind: Any = nib.Nifti1Image,
    offset: float | None = None,
    extension: bytes = b"\0\0\0\0",
    **fields: Any,
) -> bytes:
    """Return a header with any values."""
    header = kind.header_class()
    header.set_data_dtype(dtype)
    header["dim"][: len(shape) + 1] = (len(shape), *shape)
    header["pixdim"][:4] = 1
    header.set_sform(np.eye(4), 1)
    header["magic"] = b"n+1" if kind is nib.Nifti1Image else header["magic"]
    header["vox_offset"] = header.single_vox_offset if offset is None else offset
    for name, value in fields.items():
        header[name] = value
    return bytes(header.binaryblock) + extension


@pytest.fixture(scope="module")
def zeros() -> Iterator[Path]:
    """10 MB of gzip that unpack to 10 GB of zeros, as members of a gzip file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "zeros")
        member = gzip.compress(bytes(100 << 20), 9)
        with path.open("wb") as file:
            for _ in range(100):
                file.write(member)
        yield path


def bomb(zeros: Path, header: bytes, name: str = "bomb.nii.gz") -> Path:
    """Put a header before the zeros."""
    path = zeros.with_name(name)
    path.write_bytes(gzip.compress(header) + zeros.read_bytes())
    return path


def test_a_header_that_promises_ten_gigabytes(zeros: Path) -> None:
    for shape, dtype in (((2200,) * 3, np.uint8), ((1100,) * 3, np.float64)):
        for sentence in probe(bomb(zeros, nifti(shape, dtype))):
            assert "its header promises" in sentence and "4294967296 bytes are allowed" in sentence


def test_a_scaled_file_counts_as_what_it_becomes(zeros: Path) -> None:
    for sentence in probe(bomb(zeros, nifti((1000,) * 3, scl_slope=2, scl_inter=0))):
        assert "promises [1000, 1000, 1000] voxels of uint8" in sentence and "allowed" in sentence


def test_ten_gigabytes_behind_an_honest_header_stay_packed(zeros: Path) -> None:
    assert probe(bomb(zeros, nifti((8, 8, 8)))) == ["(8, 8, 8)"] * 2


def test_data_that_begins_after_gigabytes(zeros: Path) -> None:
    for sentence in probe(bomb(zeros, nifti((8, 8, 8), offset=9e9))):
        assert "from byte 8999999488 on" in sentence and "allowed" in sentence


@pytest.mark.parametrize("size", [0, -16, 2**31 - 16, 7])
def test_an_extension_without_end_stays_unread(zeros: Path, size: int) -> None:
    begin = b"\1\0\0\0" + np.array([size, 6], np.int32).tobytes()
    sentence = probe(bomb(zeros, nifti((8, 8, 8), offset=4096, extension=begin)))
    assert sentence == ["(8, 8, 8)"] * 2


def test_what_is_no_format_of_ours_stays_unread(zeros: Path) -> None:
    names = ("a.gii", "a.gii.gz", "a.hdr.gz", "a.mnc", "a.BRIK.gz", "a.nii.bz2", "a.par")
    for sentence in probe(*(bomb(zeros, b"<?xml version='1.0'?>", name) for name in names)):
        assert "its name ends in none of .nii, .nii.gz, .mgh, .mgz" in sentence


def test_a_promise_in_a_kilobyte(tmp_path: Path) -> None:
    shapes = {
        nib.Nifti1Image: [(2200,) * 3, (1500,) * 3, (32767,) * 7],  # 1500: below the limit
        # The second is 0 in 64 bits.
        nib.Nifti2Image: [(2**62,) * 3, (2**62, 4, 1), (-1, 4, 4), (8, 8, 8, 2**31)],
    }
    paths = []
    for kind, promises in shapes.items():
        for shape in promises:
            content = nifti(shape, kind=kind) + bytes(1000)
            paths += [tmp_path / f"{len(paths)}.nii", tmp_path / f"{len(paths)}.NII.GZ"]
            paths[-2].write_bytes(content)
            paths[-1].write_bytes(gzip.compress(content))
    for sentence in probe(*paths):
        assert sentence.startswith(("MaskError: mask '", "InvalidRequest: source '"))


def test_an_mgh_that_promises_gigabytes(tmp_path: Path) -> None:
    path = tmp_path / "mask.mgz"
    nib.save(nib.MGHImage(np.zeros((4, 4, 4), np.uint8), np.eye(4)), path)
    assert probe(path) == ["(4, 4, 4)"] * 2
    content = bytearray(gzip.decompress(path.read_bytes()))
    content[4:16] = np.array([2000] * 3, ">i4").tobytes()
    path.write_bytes(gzip.compress(content))
    for sentence in probe(path):
        assert "promises [2000, 2000, 2000] voxels" in sentence


@pytest.mark.parametrize("content", [b"", bytes(300), b"\0\0\0\1" + b"\x7f" * 300])
@pytest.mark.parametrize("name", ["a.mgz", "a.mgh"])
def test_an_mgh_header_that_is_none(tmp_path: Path, content: bytes, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(gzip.compress(content) if name == "a.mgz" else content)
    for load in (load_mask, load_greys):
        with pytest.raises(InvalidRequest, match="is not an image that can be read: "):
            load(path)


@pytest.mark.parametrize("code", [2, 127, 255, -1])
def test_an_mgh_of_an_unknown_type(tmp_path: Path, code: int) -> None:
    path = tmp_path / "a.mgh"
    nib.save(nib.MGHImage(np.zeros((4, 4, 4), np.uint8), np.eye(4)), path)
    content = bytearray(path.read_bytes())
    content[20:24] = np.array([code], ">i4").tobytes()
    path.write_bytes(content)
    with pytest.raises(MaskError, match="its header is damaged"):
        load_mask(path)


@pytest.mark.parametrize("load", [load_mask, load_greys])
@pytest.mark.parametrize("field", ["scl_slope", "scl_inter", "vox_offset"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e38, -1e38, -7])
def test_numbers_of_a_header(
    tmp_path: Path, load: Callable[..., Any], field: str, value: float
) -> None:
    content = nifti((4, 4, 4), scl_slope=1, scl_inter=0)
    header = np.frombuffer(content[:348], nib.Nifti1Header.template_dtype).copy()
    header[field] = value
    (tmp_path / "a.nii").write_bytes(header.tobytes() + content[348:] + bytes(64))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert load(tmp_path / "a.nii").values.shape == (4, 4, 4)
    except InvalidRequest as error:
        assert str(error).isprintable()


def segmentation(tmp_path: Path) -> Any:
    """Return a Segmentation as pydicom has it, and write it to `mask.dcm`."""
    try:
        require_dicom()
    except MaisiError as error:
        pytest.skip(str(error))
    from pydicom import dcmread

    image = nib.Nifti1Image(np.zeros((8, 8, 8), np.int16), np.eye(4))
    labels = np.zeros((8, 8, 8), np.uint8)
    labels[2:6, 2:6, 2:6] = 22
    report = {"modality": "mri_t1", "variant": "mini", "seed": 1}
    volume = Volume(image, report, nib.Nifti1Image(labels, np.eye(4)))
    from maisi_client import save_dicom

    save_dicom(volume, tmp_path / "series")
    path = tmp_path / "mask.dcm"
    path.write_bytes((tmp_path / "series" / "mask.dcm").read_bytes())
    return dcmread(path)


def test_a_deflated_segmentation_stays_packed(tmp_path: Path) -> None:
    dataset, path = segmentation(tmp_path), tmp_path / "mask.dcm"
    from pydicom.uid import DeflatedExplicitVRLittleEndian

    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    dataset.save_as(path, enforce_file_format=True)
    assert "the whole file is deflated" in probe(path)[0]


@pytest.mark.parametrize("tag", ["Rows", "NumberOfFrames"])
def test_a_segmentation_that_promises_gigabytes(tmp_path: Path, tag: str) -> None:
    dataset, path = segmentation(tmp_path), tmp_path / "mask.dcm"
    dataset.Rows = dataset.Columns = 65535
    if tag == "NumberOfFrames":
        dataset.NumberOfFrames = 2**31 - 1
    dataset.save_as(path)
    sentence = probe(path)[0]
    assert sentence.startswith(f"MaskError: mask '{path}' is not a label mask on a regular grid: ")


def test_slices_far_apart(tmp_path: Path) -> None:
    dataset, path = segmentation(tmp_path), tmp_path / "mask.dcm"
    frames = dataset.PerFrameFunctionalGroupsSequence
    frames[-1].PlanePositionSequence[0].ImagePositionPatient[2] += 10_000_000_000
    dataset.save_as(path)
    assert "more than can be read" in probe(path)[0]


@pytest.mark.filterwarnings("ignore:.*")
def test_text_of_a_segmentation_is_printable(tmp_path: Path) -> None:
    dataset, path = segmentation(tmp_path), tmp_path / "mask.dcm"
    description, label = dataset.SegmentSequence[0].SegmentDescription, "a\x1b[2J\u202e"
    number = re.search(r"\d+", description)
    assert number is not None
    unknown = copy.deepcopy(dataset.SegmentSequence[0])
    unknown.SegmentNumber, unknown.SegmentLabel, unknown.SegmentDescription = 2, label, ""
    unknown.SegmentedPropertyTypeCodeSequence[0].CodeValue = "1"
    dataset.SegmentSequence[0].SegmentDescription = description.replace(number[0], "9" * 12)
    for segments, sentence in (
        ([], "a label 999999999999; ids from 0"),
        ([unknown], r"2, 'a\?\[2J\?'"),
    ):
        dataset.SegmentSequence.extend(segments)
        dataset.save_as(path)
        with pytest.raises(MaskError, match=sentence):
            read_segmentation(path, "mask")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("[" * 100_000, "nested deeper"),
        ('{"a": NaN}', "it has NaN"),
        ("[]", "it is a list"),
        ('{"versions": 3}', "it.versions is 3; an object is expected"),
        ('{"fidelity": "good"}', "it.fidelity is 'good'; an object is expected"),
        ('{"a": "' + "b" * 2**20 + '"}', "more than the 1048576 bytes"),
    ],
)
def test_a_report_beside_a_volume(tmp_path: Path, content: str, sentence: str) -> None:
    nib.save(nib.Nifti1Image(np.zeros((4, 4, 4), np.int16), np.eye(4)), tmp_path / "a.nii.gz")
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(InvalidRequest, match=f"a.json' cannot be read: .*{sentence}"):
        Volume.load(tmp_path / "a.nii.gz")


@pytest.mark.filterwarnings("error")
def test_a_report_in_a_dicom_header(tmp_path: Path) -> None:
    segmentation(tmp_path)
    from maisi_client import save_dicom
    from pydicom import dcmread

    text = "\x1b[2J\u202e\\^" * 90
    report = {"modality": f"mri_{text}", "variant": text, "seed": text, "versions": {"maisi": text}}
    nib.save(nib.Nifti1Image(np.zeros((4, 4, 4), np.int16), np.eye(4)), tmp_path / "a.nii.gz")
    (tmp_path / "a.json").write_text(json.dumps(report))
    first = save_dicom(Volume.load(tmp_path / "a.nii.gz"), tmp_path / "dicom")[0]
    dataset = dcmread(first)
    for name in ("ImageComments", "SeriesDescription", "SoftwareVersions", "ManufacturerModelName"):
        assert str(dataset[name].value).isprintable()


def test_a_plan_of_brackets(tmp_path: Path) -> None:
    (tmp_path / "plan.jsonl").write_text("[" * 100_000)
    with pytest.raises(InvalidRequest, match="line 1: not JSON"):
        read_plan(tmp_path / "plan.jsonl")
    (tmp_path / "plan.csv").write_text("mask\n" + "a" * 200_000)
    with pytest.raises(InvalidRequest, match="cannot be read: field larger than"):
        read_plan(tmp_path / "plan.csv")


PATCHES = st.lists(
    st.tuples(st.integers(0, 600), st.binary(min_size=1, max_size=8)), min_size=1, max_size=4
)
FIELDS = st.dictionaries(
    st.sampled_from(
        [
            *("dim", "datatype", "bitpix", "pixdim", "vox_offset", "scl_slope", "scl_inter"),
            *("xyzt_units", "qform_code", "sform_code", "quatern_b", "qoffset_x", "srow_x"),
        ]
    ),
    st.one_of(
        st.integers(-(2**15), 2**15 - 1),
        st.floats(width=32),
        st.sampled_from([0, 1, 2, 3, 4, 16, 64, 256, 512]),
    ),
    min_size=1,
    max_size=4,
)


def reads_or_refuses(path: Path) -> None:
    """Check that a file is a mask, on a grid in mm, or refused in a sentence."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            mask = load_mask(path)
        except MaskError as error:
            assert str(error) == printable(str(error))
            return
    assert mask.values.dtype == np.uint8 and mask.values.ndim == 3
    assert all(0 < length < np.inf for length in mask.spacing)
    assert np.isfinite(mask.affine).all()


@settings(max_examples=500)
@given(fields=FIELDS, patches=st.one_of(st.just([]), PATCHES), packed=st.booleans())
def test_any_nifti_header_is_read_or_refused(
    fields: dict[str, Any], patches: list[tuple[int, bytes]], packed: bool
) -> None:
    content = nifti((4, 4, 4), scl_slope=1, scl_inter=0)
    header = np.frombuffer(content[:348], nib.Nifti1Header.template_dtype).copy()
    for field, value in fields.items():
        kind = header[field].dtype
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            header[field] = np.asarray(value).astype(kind)
    data = bytearray(header.tobytes() + content[348:] + bytes(64))
    for at, patch in patches:
        data[at : at + len(patch)] = patch
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a.nii.gz" if packed else "a.nii")
        path.write_bytes(gzip.compress(data) if packed else data)
        reads_or_refuses(path)


@settings(max_examples=200)
@given(
    patches=st.lists(
        st.tuples(st.integers(132, 4000), st.binary(min_size=1, max_size=6)), min_size=1, max_size=6
    ),
    length=st.integers(0, 400),
)
def test_any_segmentation_is_read_or_refused(
    segmentation_bytes: bytes, patches: list[tuple[int, bytes]], length: int
) -> None:
    data = bytearray(segmentation_bytes)
    for at, patch in patches:
        data[at : at + len(patch)] = patch
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a.dcm")
        path.write_bytes(data[: len(data) - length])
        reads_or_refuses(path)


@pytest.fixture(scope="module")
def segmentation_bytes(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("segmentation")
    segmentation(folder)
    return (folder / "mask.dcm").read_bytes()
