"""The layout of the Brain Imaging Data Structure."""

from __future__ import annotations

import functools
import re
from collections import defaultdict
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ..._errors import InvalidRequest
from ..cases import CASES, Case, Common
from ..report_files import BIDS_LABELS, BIDS_REPORTS
from ..row import Row
from .layout import DESCRIPTION, CasePaths, Layout, dataset_name, write_json, write_text
from .summary import Summary

# Suffixes of https://bids-specification.readthedocs.io/en/stable/modality-specific-files/
# magnetic-resonance-imaging-data.html. BIDS has no suffix for susceptibility-weighted images.
_SUFFIXES = {
    "mri_t1": "T1w",
    "mri_t2": "T2w",
    "mri_flair": "FLAIR",
    "mri_pd": "PDw",
    "mri_mra": "angio",
    "mri_swi": "acq-swi_T2starw",
    "mri_t1_skull_stripped": "acq-skullstripped_T1w",
    "mri_t2_skull_stripped": "acq-skullstripped_T2w",
    "mri_flair_skull_stripped": "acq-skullstripped_FLAIR",
    "mri_swi_skull_stripped": "acq-swiskullstripped_T2starw",
}
_VERSION = "1.10.0"
_GENERATOR = "maisi-triton"


def bids(summary: Summary) -> Layout:
    """Return the layout of BIDS. Labels keep MAISI's ids.

    A subject is an anatomy and a session is a row, so a subject has all images of its anatomy.
    Raises `InvalidRequest` for a modality without a name in BIDS, and for names that BIDS maps to
    the same label.
    """
    for kind in summary.modalities:
        if kind not in _SUFFIXES:
            raise InvalidRequest(
                f"modality '{kind}' has no name in BIDS; allowed are {', '.join(_SUFFIXES)}"
            )
    _check_names(summary.rows)
    folder = summary.folder

    def paths(row: Row) -> CasePaths:
        subject, session = _subject(row.group), f"ses-{_label(row.name)}"
        anat = Path(subject, session, "anat")
        stems = [
            f"{subject}_{session}_{_SUFFIXES[modality]}" for modality in summary.row_modalities(row)
        ]
        return CasePaths(
            tuple(anat / f"{stem}.nii.gz" for stem in stems),
            BIDS_LABELS / anat / f"{subject}_{session}_dseg.nii.gz",
            tuple(anat / f"{stem}.json" for stem in stems),
        )

    def describe(cases: Sequence[Case]) -> None:
        for dataset in (folder, folder / BIDS_LABELS):
            dataset.mkdir(parents=True, exist_ok=True)
            write_json(
                dataset / "dataset_description.json",
                {
                    "Name": dataset_name(folder),
                    "BIDSVersion": _VERSION,
                    "DatasetType": "derivative",
                    "GeneratedBy": [{"Name": _GENERATOR, "Version": version("maisi-client")}],
                    "License": summary.licence,
                },
            )
        labels = (f"{id_}\t{name}" for id_, name in summary.labels.items())
        write_text(folder / BIDS_LABELS / "dseg.tsv", "\n".join(["index\tname", *labels]))
        people = sorted({(case.reports[0].partition("/")[0], case.group) for case in cases})
        lines = ("\t".join(person) for person in people)
        write_text(folder / "participants.tsv", "\n".join(["participant_id\tgroup", *lines]))
        write_json(
            folder / "participants.json",
            {"group": {"Description": "The anatomy: the same mask, source or seed in the plan"}},
        )
        ignored = f"unfaithful\nfailed\n.shard*\n.describing\n{CASES}\ncroissant.json"
        write_text(folder / ".bidsignore", ignored)

    sessions = functools.cache(_sessions)  # as they are before a run

    def elsewhere(row: Row, base: Path) -> list[Path]:
        own = {base / report for report in paths(row).reports}
        return [path for path in sessions(base)[f"ses-{_label(row.name)}"] if path not in own]

    return Layout(
        paths,
        Common("bids", summary.channels),
        reports=BIDS_REPORTS,
        elsewhere=elsewhere,
        fields=_metadata,
        describe=describe,
        signs={"dataset_description.json": _GENERATOR},
    )


def _sessions(base: Path) -> dict[str, list[Path]]:
    """Return the reports of each session in a folder."""
    reports: dict[str, list[Path]] = defaultdict(list)
    for path in base.glob(BIDS_REPORTS):
        reports[path.parents[1].name].append(path)
    return reports


def _metadata(modality: str) -> dict[str, Any]:
    """Return the fields that BIDS requires for a derived image."""
    return {"Description": DESCRIPTION, "SkullStripped": modality.endswith("_skull_stripped")}


def _check_names(rows: Sequence[Row]) -> None:
    """Raise `InvalidRequest` if two names of groups, or of rows, become the same label in BIDS."""
    for kind, names in (("groups", [row.group for row in rows]), ("rows", [r.name for r in rows])):
        labels: dict[str, str] = {}
        for name in names:
            other = labels.setdefault(_label(name), name)
            if other != name:
                raise InvalidRequest(
                    f"{kind} '{other}' and '{name}' are both '{_label(name)}' in BIDS, which allows"
                    " only letters and digits"
                )


def _subject(group: str) -> str:
    return f"sub-{_label(group)}"


def _label(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9]", "", name)
