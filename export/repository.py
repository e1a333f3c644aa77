"""The model repository: `config.pbtxt` and files of each model of a variant, per version."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from google.protobuf import text_format  # type: ignore[import-untyped]
from tritonclient.grpc import model_config_pb2 as pb

from export.model_configs import configs
from export.variant import Variant

_HEAD = "# Written by `python -m export"


def write(
    repository: Path,
    variant: Variant,
    digests: Mapping[str, str],
    files: Mapping[str, Sequence[Path]],
    target: str,
    precision: str,
    version: int = 1,
) -> None:
    """Write the variant's models into `repository` as one version, each whole or not at all.

    `files`: short name of an engine -> its files, which are linked where the file system allows,
    else copied, under their own names: `model.onnx` and perhaps `model.onnx.data`, `model.plan`, or
    one `model_sm86.plan` per compute capability. An older build of this version is replaced, and
    models that the variant no longer has are removed. Other versions are kept: every version then
    has its configuration in `configs/`, and `config.pbtxt` is that of the newest version.
    Raises ValueError when an engine has no file, or another version has other models; `repository`
    is untouched then.
    """
    models = configs(variant, digests, target, precision)
    repository.mkdir(parents=True, exist_ok=True)
    with (repository / ".lock").open("a") as lock:  # also of src/maisi_triton/folders.py
        fcntl.flock(lock, fcntl.LOCK_EX)
        for leftover in repository.glob(f".{variant.name}-*"):  # of a build that was killed
            shutil.rmtree(leftover, ignore_errors=True)
        _write(repository, variant, models, files, version)


def _write(
    repository: Path,
    variant: Variant,
    models: Mapping[str, pb.ModelConfig],
    files: Mapping[str, Sequence[Path]],
    version: int,
) -> None:
    obsolete = {
        path.parent
        for path in repository.glob(f"{variant.name}.*/config.pbtxt")
        if path.parent.name not in models and path.read_text().startswith(_HEAD)
    }
    present = [repository / name for name in models if (repository / name).exists()]
    if any(_versions(folder) - {version} for folder in present) and (
        obsolete or len(present) < len(models)
    ):
        raise ValueError(
            f"version: {version} of {variant.name} has other models than the versions that are"
            f" in {repository}; build it under another name"
        )
    # In the repository, so that a rename stays on one file system.
    with tempfile.TemporaryDirectory(prefix=f".{variant.name}-", dir=repository) as folder:
        new, old = Path(folder, "new"), Path(folder, "old")
        old.mkdir()
        for name, config in models.items():
            short = name.removeprefix(f"{variant.name}.")
            _write_model(new / name, variant, config, files.get(short, ()), version)
            _copy_other_versions(repository / name, new / name, version)
        try:
            for name in models:
                if os.path.lexists(repository / name):
                    os.replace(repository / name, old / name)
                os.replace(new / name, repository / name)
            for model in obsolete:
                os.replace(model, old / model.name)
        except BaseException:
            for path in old.iterdir():  # what was replaced so far
                shutil.rmtree(repository / path.name, ignore_errors=True)
                os.replace(path, repository / path.name)
            raise


def _versions(folder: Path) -> set[int]:
    return {int(path.name) for path in folder.iterdir() if path.name.isdigit()}


def _copy_other_versions(old: Path, new: Path, version: int) -> None:
    """Copy the versions of a model other than `version`, and give each its own configuration."""
    others = _versions(old) - {version} if old.exists() else set()
    if not others:
        return
    for other in others:
        shutil.copytree(old / str(other), new / str(other), copy_function=_link)
    folder = new / "configs"
    folder.mkdir()
    for other in others:
        text = old / "configs" / f"{other}.pbtxt"
        _pin(text if text.exists() else old / "config.pbtxt", folder, other)
    _pin(new / "config.pbtxt", folder, version)
    if max(others) > version:
        shutil.copyfile(old / "config.pbtxt", new / "config.pbtxt")


def _pin(text: Path, folder: Path, version: int) -> None:
    """Write the configuration in file `text` to `folder`, limited to `version` by its policy."""
    head = text.read_text().partition("\n")[0]
    config = text_format.Parse(text.read_text(), pb.ModelConfig())
    config.version_policy.specific.versions[:] = [version]
    (folder / f"{version}.pbtxt").write_text(f"{head}\n{text_format.MessageToString(config)}")


def _write_model(
    folder: Path, variant: Variant, config: pb.ModelConfig, files: Sequence[Path], number: int
) -> None:
    version = folder / str(number)
    version.mkdir(parents=True)
    for path in files:
        _link(path, version / path.name)
    per_gpu = any(re.fullmatch(r".*_sm\d+\.plan", path.name) for path in files)
    file = config.default_model_filename
    if file and not per_gpu and not (version / file).exists():
        raise ValueError(f"{config.name}: no {file} was made for it")
    if not files:
        (version / ".gitkeep").touch()  # Triton needs the folder, and git stores no empty one
    head = f"{_HEAD} build {variant.name}` from its TOML file.\n"
    (folder / "config.pbtxt").write_text(head + text_format.MessageToString(config))


def _link(source: str | Path, target: str | Path) -> None:
    try:
        os.link(Path(source).resolve(), target)
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, target)
