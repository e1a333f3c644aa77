"""`dataset.json`, the description of a dataset in the layouts of nnU-Net and MSD."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .._errors import InvalidRequest, first_line, printable
from .._validation import read_json_file

_NAME = 60  # characters of a label's name; the rest is cut off


def read_dataset_json(folder: Path) -> dict[str, Any]:
    """Return the contents of a folder's `dataset.json`; empty if there is no such file.

    Raises `InvalidRequest` if the file cannot be read.
    """
    path = folder / "dataset.json"
    if not path.is_file():
        return {}
    try:
        return read_json_file(path)
    except (OSError, ValueError) as error:
        raise InvalidRequest(f"'{path}' cannot be read: {first_line(error)}") from error


def names_of_labels(contents: Mapping[str, Any]) -> dict[int, str]:
    """Return the names of the labels by id, without the background; empty if there are none.

    nnU-Net maps names to ids, MSD maps ids to names. Regions of nnU-Net, which are lists of ids,
    are left out.
    """
    table = contents.get("labels")
    names: dict[int, str] = {}
    for key, value in table.items() if isinstance(table, dict) else ():
        id_, name = (value, key) if isinstance(value, int) else (key, value)
        if str(id_).isdecimal() and isinstance(name, str):
            names[int(id_)] = printable(name, _NAME)
    return {id_: name for id_, name in names.items() if id_}
