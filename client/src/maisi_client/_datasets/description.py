"""The files that describe a dataset to trainers, people and programs."""

from __future__ import annotations

from pathlib import Path

from .._errors import InvalidRequest
from .card import card
from .cases import CASES, CASES_SIGN, cases_table, finished_cases, read_report
from .croissant import croissant
from .facts import Facts
from .layouts.layout import DESCRIPTION, Layout, dataset_name, write_json, write_text
from .report_files import BIDS_REPORTS, REPORTS

UNFAITHFUL, FAILED = Path("unfaithful"), Path("failed")
# The files of every layout, each with a text that shows that this package wrote the file.
_SIGNS = {CASES: CASES_SIGN, "README.md": DESCRIPTION, "croissant.json": DESCRIPTION}


def check_folder(folder: Path, layout: Layout) -> None:
    """Raise `InvalidRequest` if the folder has another dataset, or cases of another kind."""
    for file, sign in {**_SIGNS, **layout.signs}.items():
        path = folder / file
        if path.is_file() and sign.encode() not in path.read_bytes():
            raise InvalidRequest(
                f"'{path}' describes another dataset; a folder without it is expected"
            )
    for base in (folder, folder / UNFAITHFUL):
        for pattern in (REPORTS, BIDS_REPORTS):
            report = next((path for path in base.glob(pattern) if path.name[0] != "."), None)
            if report:
                read_report(report, layout.common)


def describe(folder: Path, layout: Layout) -> None:
    """Write the files that describe the finished cases of a dataset.

    The contents depend only on the cases. All shards therefore write the same files.
    """
    cases = finished_cases(folder, layout.reports, layout.common)
    layout.describe(cases)
    unfaithful = finished_cases(folder / UNFAITHFUL, layout.reports, layout.common)
    failed = len(list((folder / FAILED).glob("[!.]*.json")))
    facts = Facts(dataset_name(folder), layout.common.layout, cases, len(unfaithful), failed)
    write_text(folder / CASES, cases_table(cases).removesuffix("\n"))
    write_text(folder / "README.md", card(facts))
    write_json(folder / "croissant.json", croissant(facts))
