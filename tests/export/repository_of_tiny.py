"""Small variants, exported once a test run."""

import functools
import tempfile
from pathlib import Path

from export import graphs, networks, onnx_export, repository, variant
from export.__main__ import export
from export.variant import Variant
from tests.export.weights import random_checkpoint, tiny

TINY = Path(__file__).parent / "tiny"
# Like ddpm-ct and rflow-mr-brain.
OFFICIAL = ("tiny-ddpm", "tiny-brain")


@functools.cache
def exported() -> tempfile.TemporaryDirectory[str]:
    """Return a folder that holds the checkpoints `tiny/` and the model repository `models/`."""
    folder = tempfile.TemporaryDirectory(prefix="tiny-")
    random_checkpoint(tiny(), Path(folder.name))
    export(tiny(), Path(folder.name), Path(folder.name) / "models")
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
    loaded = networks.load(chosen, folder)
    files = {}
    for graph in graphs.graphs(chosen, loaded):
        path = onnx_export.write(graph, folder / "graphs" / chosen.name / graph.name, "fp32")
        files[graph.name] = sorted(path.parent.iterdir())
    repository.write(folder / "models", chosen, loaded.digests, files, "onnx", "fp32")
