"""Pack everything except PyTorch that a GPU machine without access to the internet needs."""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench import ROOT
from bench.acceptance import fatbin, parcels

PROVIDER = "onnxruntime/capi/libonnxruntime_providers_cuda.so"
# The archives are copied in order. `BASE` is enough for the step machine; the engines on a GPU also
# need `CUPY` and `PROVIDER`.
BASE = (
    "nvidia-pytriton==0.7.0",
    "onnxruntime-gpu==1.31.1",
    "monai==1.6.1",
    "numpy==1.26.4",
    *("einops", "flatbuffers", "grpcio", "importlib_resources", "ml_dtypes", "nibabel", "onnx"),
    *("onnx_ir", "onnxscript", "packaging", "protobuf", "psutil", "python-rapidjson"),
    *("safetensors", "scipy", "tritonclient", "typing_extensions"),
)
CUPY = ("cupy-cuda13x==13.6.0", "fastrlock")
_GLIBC = range(39, 16, -1)  # N of manylinux_2_N; pip needs every platform tag that it may use
_LEFT_OUT = (".onnx", ".png", ".pt", ".safetensors")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `scripts/acceptance --pack DIR`; return the exit status."""
    parser = argparse.ArgumentParser(prog="scripts/acceptance")
    add = parser.add_argument
    add("--pack", type=Path, required=True, metavar="DIR", help="a new or empty folder")
    add("--limit-mb", type=int, default=64, help="largest size of a file in MiB (default: 64)")
    here = f"{sys.version_info[0]}.{sys.version_info[1]}"
    add("--python", default=here, help="Python of the GPU machine (default: %(default)s)")
    add("--capability", help="compute capability of its GPU, such as 9.0; omits other code")
    options = parser.parse_args(arguments)
    folder: Path = options.pack.resolve()
    if folder.exists() and any(folder.iterdir()):
        parser.error(f"--pack: {folder} is not empty")
    if options.limit_mb < 1:
        parser.error(f"--limit-mb: {options.limit_mb} is not a whole number above 0")
    folder.mkdir(parents=True, exist_ok=True)
    try:
        pack(folder, options.limit_mb << 20, options.python, options.capability)
    except subprocess.CalledProcessError as error:
        command = Path(error.cmd[0]).name
        print(f"acceptance: {command} failed with status {error.returncode}", file=sys.stderr)
        return 1
    except ValueError as error:
        print(f"acceptance: {Path(PROVIDER).name}: {error}", file=sys.stderr)
        return 1
    for path in sorted(folder.iterdir()):
        print(f"{path.stat().st_size / (1 << 20):8.1f} MB  {path.name}")
    return 0


def pack(folder: Path, limit: int, python: str, capability: str | None) -> None:
    """Write the parcels, the manifest and `unpack.py` to an empty folder.

    A file has at most `limit` bytes. The packages are for the version `python`, such as 3.12. With
    a `capability`, such as 9.0, the code for other GPUs is cleared. Raises CalledProcessError if
    git or pip fails, and ValueError if ONNX Runtime's CUDA provider has an unknown format.
    """
    archives = []
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        base = _wheels(BASE, scratch / "base", python)
        provider = _take_out(base, scratch)
        if capability:
            fatbin.keep(provider, capability)
        cupy = _wheels(CUPY, scratch / "cupy", python)
        for title, members in (
            ("1-base", [*_tree(), *base]),
            ("2-cupy", cupy),
            ("3-provider", [(f"site/{PROVIDER}", provider)]),
        ):
            archives.append(parcels.write(folder, title, limit, members))
            print(f"{title}: {len(archives[-1]['parts'])} files", file=sys.stderr, flush=True)
    manifest = {"python": python, "archives": archives}
    (folder / parcels.MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")
    shutil.copyfile(parcels.__file__, folder / "unpack.py")


def _tree() -> Iterator[tuple[str, Path]]:
    """Yield the name in the archive and the path of each file that git tracks.

    Graphs, checkpoints and pictures are left out.
    """
    command = ["git", "-C", str(ROOT), "ls-files", "-z"]
    listed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    for name in listed.split("\0"):
        if name and not name.endswith(_LEFT_OUT):
            yield f"tree/{name}", ROOT / name


def _wheels(packages: Sequence[str], folder: Path, python: str) -> list[tuple[str, Path]]:
    """Download wheels; return their names and paths.

    The wheels are stored without compression, because xz compresses the archive better then.
    """
    platforms = [f"manylinux_2_{number}_x86_64" for number in _GLIBC]
    words = ["--only-binary=:all:", "--python-version", python, "--implementation", "cp"]
    for platform in (*platforms, "manylinux2014_x86_64", "manylinux1_x86_64"):
        words += ["--platform", platform]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", *words]
    subprocess.run([*command, "--dest", str(folder), *packages], check=True, stdout=2)
    stored = folder / "stored"
    stored.mkdir()
    return [_store(path, stored, python) for path in sorted(folder.glob("*.whl"))]


def _store(wheel: Path, folder: Path, python: str) -> tuple[str, Path]:
    """Copy a wheel without compression; return its name in the archive and its path.

    Triton's stubs for other versions of Python and the CUDA provider are left out.
    """
    with zipfile.ZipFile(wheel) as old, zipfile.ZipFile(folder / wheel.name, "w") as new:
        left_out = {
            info.filename
            for info in old.infolist()
            if "/python_backend_stubs/" in info.filename
            and f"/python_backend_stubs/{python}/" not in info.filename
        } | {PROVIDER}
        for info in old.infolist():
            if info.filename in left_out:
                continue
            content = old.read(info)
            if info.filename.endswith(".dist-info/RECORD"):
                rows = content.decode().splitlines(keepends=True)
                content = "".join(
                    row for row in rows if row.partition(",")[0] not in left_out
                ).encode()
            info.compress_type = zipfile.ZIP_STORED
            new.writestr(info, content)
    return f"wheels/{wheel.name}", folder / wheel.name


def _take_out(wheels: Sequence[tuple[str, Path]], folder: Path) -> Path:
    """Return ONNX Runtime's CUDA provider, which `_store` left out of its wheel."""
    (wheel,) = (path for _, path in wheels if path.name.startswith("onnxruntime_gpu-"))
    with zipfile.ZipFile(wheel.parent.parent / wheel.name) as original:
        return Path(original.extract(PROVIDER, folder))


if __name__ == "__main__":
    sys.exit(main())
