"""Small variants, exported once per test run."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
from google.protobuf import text_format  # type: ignore[import-untyped]
from tritonclient.grpc import model_config_pb2 as pb

from export import build
from export import variant as variants
from export.job import Job
from export.variant import Variant
from tests.export.weights import TINY, random_checkpoint, tiny

# Like ddpm-ct and rflow-mr-brain.
OFFICIAL = ("tiny-ddpm", "tiny-brain")


def exported(factory: pytest.TempPathFactory) -> Path:
    """Return a folder with checkpoints and, in `models/`, the export of `weights.tiny()`."""
    return _once(factory, "tiny", [tiny()])


def exported_official(factory: pytest.TempPathFactory) -> Path:
    """Return a folder with checkpoints and, in `models/`, the export of all `OFFICIAL`."""
    return _once(factory, "official", [official(name) for name in OFFICIAL])


def official(name: str) -> Variant:
    """Return one of `OFFICIAL`."""
    return variants.load(TINY / f"{name}.toml")


def job(variant: Variant, folder: Path) -> Job:
    """Return the job that builds `variant` from checkpoints in `folder` to `folder/models`."""
    return Job(variant, folder, folder / "models", folder / "cache")


def _once(factory: pytest.TempPathFactory, name: str, selected: Sequence[Variant]) -> Path:
    """Return the folder `name`, to which the first process of a test run exports the variants."""
    base = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent  # of the folders of all processes
    folder, complete = base / name, base / f"{name}-complete"
    with (base / f"{name}-lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not complete.exists():
            shutil.rmtree(folder, ignore_errors=True)  # of an export that failed
            folder.mkdir()
            for variant in selected:
                random_checkpoint(variant, folder)
                build.build(job(variant, folder))
            complete.touch()
    return folder


def read_config(folder: Path) -> pb.ModelConfig:
    """Return the configuration of the model in `folder`."""
    return text_format.Parse((folder / "config.pbtxt").read_text(), pb.ModelConfig())
