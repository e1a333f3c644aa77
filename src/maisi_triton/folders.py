"""The folders of the command's sources, environments and models."""

from __future__ import annotations

import os
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
INSTALLED = (PACKAGE / "tree").is_dir()
# The folders backends, export, model_repository and server, in the wheel or in the checkout.
TREE = PACKAGE / "tree" if INSTALLED else PACKAGE.parents[1]


def cache() -> Path:
    """Return the folder of environments and of finished graphs of the export."""
    return _base("XDG_CACHE_HOME", ".cache")


def models() -> Path:
    """Return the user's model repository, with a link to each model of the package.

    Models that the user has built are kept, even if the package has a model of the same name.
    Raises OSError if the folder cannot be written.
    """
    repository = _base("XDG_DATA_HOME", ".local/share") / "model_repository"
    repository.mkdir(parents=True, exist_ok=True)
    for path in repository.iterdir():  # remove links to models of another installation
        if path.is_symlink() and not path.exists():
            path.unlink()
    for model in (TREE / "model_repository").iterdir():
        link = repository / model.name
        if link.is_symlink():
            link.unlink()
        if not link.exists():
            link.symlink_to(model)
    return repository


def _base(variable: str, default: str) -> Path:
    """Return our folder below that of a variable; XDG requires an absolute path."""
    folder = Path(os.environ.get(variable, ""))
    return (folder if folder.is_absolute() else Path.home() / default) / "maisi-triton"
