"""The folders of the command's sources, environments and models."""

from __future__ import annotations

import fcntl
import os
import tempfile
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
INSTALLED = (PACKAGE / "tree").is_dir()
# The folders backends, export, model_repository and server, in the wheel or in the checkout.
TREE = PACKAGE / "tree" if INSTALLED else PACKAGE.parents[1]
_MODELS = ("maisi_triton", "tree", "model_repository")  # the end of the folder in a wheel


def cache() -> Path:
    """Return the folder of environments and of finished graphs of the export."""
    return _base("XDG_CACHE_HOME", ".cache")


def models() -> Path:
    """Return the user's model repository, with a link to each model of the package.

    Links that this or an earlier installation made follow this installation. Models and links of
    the user are kept, even if the package has a model of the same name. Processes that call this or
    write models at the same time wait for each other. Raises OSError if the folder cannot be
    written.
    """
    repository = _base("XDG_DATA_HOME", ".local/share") / "model_repository"
    repository.mkdir(parents=True, exist_ok=True)
    with (repository / ".lock").open("w") as lock:  # also of export/repository.py
        fcntl.flock(lock, fcntl.LOCK_EX)
        for path in repository.iterdir():
            if _is_ours(path) and not path.exists():
                path.unlink()
        for model in (TREE / "model_repository").iterdir():
            link = repository / model.name
            if not os.path.lexists(link) or (_is_ours(link) and link.readlink() != model):
                _replace(link, model)
    return repository


def _is_ours(path: Path) -> bool:
    """Return whether a path is a link to the model of its name in an installed package."""
    return path.is_symlink() and path.readlink().parts[-4:] == (*_MODELS, path.name)


def _replace(link: Path, target: Path) -> None:
    """Make `link` a link to `target`; a link that exists is there at all times."""
    # One level deeper, where no server looks for models.
    with tempfile.TemporaryDirectory(prefix=".links-", dir=link.parent) as folder:
        draft = Path(folder, link.name)
        draft.symlink_to(target)
        os.replace(draft, link)


def _base(variable: str, default: str) -> Path:
    """Return our folder below that of a variable; XDG requires an absolute path."""
    folder = Path(os.environ.get(variable, ""))
    return (folder if folder.is_absolute() else Path.home() / default) / "maisi-triton"
