"""Small variants, exported once per test run."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path

from google.protobuf import text_format  # type: ignore[import-untyped]
from tritonclient.grpc import model_config_pb2 as pb

from export import build
from export import variant as variants
from export.job import Job
from export.variant import Variant
from tests.export.weights import TINY, random_checkpoint, tiny

# Like ddpm-ct and rflow-mr-brain.
OFFICIAL = ("tiny-ddpm", "tiny-brain")


@functools.cache
def exported() -> tempfile.TemporaryDirectory[str]:
    """Return a folder with checkpoints and, in `models/`, the export of `weights.tiny()`."""
    folder = tempfile.TemporaryDirectory(prefix="tiny-")
    _export(tiny(), Path(folder.name))
    return folder


@functools.cache
def exported_official() -> tempfile.TemporaryDirectory[str]:
    """Return a folder with checkpoints and, in `models/`, the export of all `OFFICIAL`."""
    folder = tempfile.TemporaryDirectory(prefix="tiny-official-")
    for name in OFFICIAL:
        _export(official(name), Path(folder.name))
    return folder


def official(name: str) -> Variant:
    """Return one of `OFFICIAL`."""
    return variants.load(TINY / f"{name}.toml")


def job(variant: Variant, folder: Path) -> Job:
    """Return the job that builds `variant` from checkpoints in `folder` to `folder/models`."""
    return Job(variant, folder, folder / "models", folder / "cache")


def _export(variant: Variant, folder: Path) -> None:
    random_checkpoint(variant, folder)
    build.build(job(variant, folder))


def read_config(folder: Path) -> pb.ModelConfig:
    """Return the configuration of the model in `folder`."""
    return text_format.Parse((folder / "config.pbtxt").read_text(), pb.ModelConfig())
