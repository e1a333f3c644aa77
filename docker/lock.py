"""Lock the packages of the images and of `maisi-triton serve`: `python -m docker.lock`.

pip resolves packages for the Python of each image, which may differ from the Python that runs this
module. uv resolves packages for all Pythons that the wheel supports. `scripts/write lock` runs this
module.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FOLDER = Path(__file__).parent
HEAD = (
    "# Written by scripts/write lock: the packages of the image, with the digest of every file.\n"
)
DEBIAN = ("3.11", "manylinux_2_36_x86_64")  # bookworm
UBUNTU = ("3.12", "manylinux_2_39_x86_64")  # noble, the base of NVIDIA's image
# NVIDIA's image has CUDA, cuDNN and TensorRT. These are the bindings of its TensorRT; see TAG in
# docker/Dockerfile.
GPU_ALONE = ("tensorrt-cu13-bindings==10.13.3.9",)
ENGINES = "maisi-triton[engines]"  # not on an index
TRITON = "nvidia-pytriton==0.7.0"  # only for its tritonserver, so without its dependencies
LOCKS = FOLDER.parent / "src" / "maisi_triton" / "locks"
IN_THE_IMAGE = re.compile(r"nvidia[-_]")


def packages(extra: str) -> list[str]:
    """Return the requirements of an extra of pyproject.toml, including those of `engines`."""
    text = (FOLDER.parent / "pyproject.toml").read_text()
    table: dict[str, list[str]] = tomllib.loads(text)["project"]["optional-dependencies"]
    return [*table["engines"], *(line for line in table[extra] if line != ENGINES)]


def client_packages() -> list[str]:
    """Return the requirements of the client, of its extra `dicom`, and of its build."""
    table = tomllib.loads((FOLDER.parent / "client" / "pyproject.toml").read_text())
    project: dict[str, Any] = table["project"]
    dicom = project["optional-dependencies"]["dicom"]
    return [*project["dependencies"], *dicom, *table["build-system"]["requires"]]


def resolve(image: tuple[str, str], requirements: list[str], *flags: str) -> list[str]:
    """Return a line `name==version --hash=sha256:digest` for each package of an image.

    `image` is the version of Python and the platform tag. `flags` are options of `pip install`.
    """
    python, platform = image
    glibc = int(re.findall(r"\d+", platform)[1])
    # pip accepts wheels of the named tags only, and wheels may be for any glibc up to the image's.
    tags = [f"--platform=manylinux_2_{minor}_x86_64" for minor in range(glibc, 4, -1)]
    tags += ["--platform=manylinux2014_x86_64", "--platform=manylinux1_x86_64"]
    report = subprocess.run(
        [
            *(sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed"),
            *("--only-binary=:all:", f"--python-version={python}", *tags, "--target=nowhere"),
            *("--report=-", *flags, *requirements),
        ],
        check=True,
        stdout=subprocess.PIPE,
    )
    lines = []
    for item in json.loads(report.stdout)["install"]:
        package: dict[str, Any] = item["metadata"]
        digest = item["download_info"]["archive_info"]["hashes"]["sha256"]
        lines.append(f"{package['name']}=={package['version']} --hash=sha256:{digest}")
    return lines


def compile_lock(requirements: list[str], *flags: str) -> str:
    """Return lines for pip with all packages that the requirements need in any supported Python."""
    return subprocess.run(
        [
            *(sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--universal"),
            *("--python-version=3.10", "--generate-hashes", "--no-annotate", "--no-header"),
            *(*flags, "-"),
        ],
        check=True,
        input="\n".join(requirements),
        cwd=FOLDER.parent,  # pyproject.toml names the platform
        stdout=subprocess.PIPE,
        text=True,
    ).stdout


def main() -> None:
    """Write docker/requirements-*.txt and the locks of the wheel."""
    cpu = resolve(DEBIAN, packages("serve")) + resolve(DEBIAN, [TRITON], "--no-deps")
    all_on_gpu = resolve(UBUNTU, [*packages("gpu"), *GPU_ALONE])
    gpu = [line for line in all_on_gpu if not IN_THE_IMAGE.match(line)]
    client = resolve(DEBIAN, client_packages())
    for name, lines in (("cpu", cpu), ("gpu", gpu), ("client", client)):
        (FOLDER / f"requirements-{name}.txt").write_text(HEAD + "\n".join(sorted(lines)) + "\n")
    for extra in ("serve", "gpu"):
        text = compile_lock(packages(extra)) + compile_lock([TRITON], "--no-deps")
        (LOCKS / f"{extra}.txt").write_text(HEAD.replace("the image", "an environment") + text)


if __name__ == "__main__":
    main()
