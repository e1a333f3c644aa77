"""The layouts of a dataset: paths of its files, and the files that describe it to a trainer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from ..._errors import InvalidRequest
from ..._variant import Variant, choose_variant
from ..report_files import LAYOUTS
from ..row import Row
from .bids import bids
from .layout import Layout
from .msd import msd
from .nnunet import nnunet
from .plain import plain
from .summary import Summary

_MAKERS = {"nnunet": nnunet, "msd": msd, "bids": bids}


def make_layout(
    name: str,
    folder: Path,
    rows: Sequence[Row],
    variants: Callable[[], Mapping[str, Variant]],
    channels: Sequence[str] = (),
) -> Layout:
    """Return the layout called `name` for a plan and a folder; `variants` asks the server.

    `channels` are the modalities of every row; empty if each row has one modality of its own.
    Raises `InvalidRequest` for rows that the layout does not allow.
    """
    if name == "plain":
        return plain(channels)
    if name not in LAYOUTS:
        raise InvalidRequest(f"the layout is '{name}'; allowed are {', '.join(LAYOUTS)}")
    variants_by_name = variants()
    names = {row.arguments.get("variant") for row in rows}
    summary = Summary(
        folder, rows, {name: choose_variant(name, variants_by_name) for name in names}, channels
    )
    return _MAKERS[name](summary)
