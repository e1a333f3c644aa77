"""The files that describe a dataset to trainers, people and programs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .._errors import InvalidRequest
from .card import card
from .cases import CASES, CASES_SIGN, cases_table, finished_cases, read_report
from .croissant import croissant
from .facts import Facts
from .layouts.layout import DESCRIPTION, Layout, write_json, write_text

UNFAITHFUL, FAILED = Path("unfaithful"), Path("failed")
# The files of every layout, each with a text that shows that this package wrote the file.
_SIGNS = {CASES: CASES_SIGN, "README.md": DESCRIPTION, "croissant.json": DESCRIPTION}


def check_folder(folder: Path, layout: Layout, channels: Sequence[str]) -> None:
    """Raise `InvalidRequest` if the folder has another dataset, or cases of other channels."""
    for file, sign in {**_SIGNS, **layout.signs}.items():
        path = folder / file
        if path.is_file() and sign.encode() not in path.read_bytes():
            raise InvalidRequest(
                f"'{path}' describes another dataset; a folder without it is expected"
            )
    for base in (folder, folder / UNFAITHFUL):
        report = next((path for path in base.glob(layout.reports) if path.name[0] != "."), None)
        if report:
            read_report(report, channels)


def describe(folder: Path, name: str, layout: Layout, channels: Sequence[str]) -> None:
    """Write the files that describe the finished cases of a dataset in the layout called `name`.

    The contents depend only on the cases. All shards therefore write the same files.
    """
    cases = finished_cases(folder, layout.reports, channels)
    layout.describe(cases)
    unfaithful = finished_cases(folder / UNFAITHFUL, layout.reports, channels)
    failed = len(list((folder / FAILED).glob("[!.]*.json")))
    facts = Facts(folder.resolve().name, name, cases, len(unfaithful), failed)
    write_text(folder / CASES, cases_table(cases).removesuffix("\n"))
    write_text(folder / "README.md", card(facts))
    write_json(folder / "croissant.json", croissant(facts))
