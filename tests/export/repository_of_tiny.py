"""The small variant, exported once a test run."""

import functools
import tempfile
from pathlib import Path

from export.__main__ import export
from tests.export.weights import random_checkpoint, tiny


@functools.cache
def exported() -> tempfile.TemporaryDirectory[str]:
    """Return a folder that holds the checkpoints `tiny/` and the model repository `models/`."""
    folder = tempfile.TemporaryDirectory(prefix="tiny-")
    random_checkpoint(tiny(), Path(folder.name))
    export(tiny(), Path(folder.name), Path(folder.name) / "models")
    return folder
