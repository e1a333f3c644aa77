"""Small variants, exported once a test run."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path

from export import build, variant
from export.variant import Variant
from tests.export.weights import random_checkpoint, tiny

TINY = Path(__file__).parent / "tiny"
# Like ddpm-ct and rflow-mr-brain.
OFFICIAL = ("tiny-ddpm", "tiny-brain")


@functools.cache
def exported() -> tempfile.TemporaryDirectory[str]:
    """Return a folder that holds the checkpoints `tiny/` and the model repository `models/`."""
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
    return variant.load(TINY / f"{name}.toml")


def _export(chosen: Variant, folder: Path) -> None:
    random_checkpoint(chosen, folder)
    build.build(build.Job(chosen, folder, folder / "models", folder / "cache"))
