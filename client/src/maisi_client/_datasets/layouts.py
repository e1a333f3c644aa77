"""The layouts of a dataset: paths of its files, and the files that describe it to a trainer."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from .._atomic import atomic
from .._errors import InvalidRequest
from .._variant import Variant, choose_variant
from .plan import Row
from .report_files import CHANNEL, LAYOUTS

# Suffixes of https://bids-specification.readthedocs.io/en/stable/modality-specific-files/
# magnetic-resonance-imaging-data.html; susceptibility-weighted images have none of their own.
_BIDS = {
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
_BIDS_VERSION = "1.8.0"
_BIDS_LABELS = Path("derivatives", "labels")
_DESCRIPTION = "Synthetic volumes, made by generative models of masks. No patient was scanned."
_GENERATOR = "maisi-triton"
# Files that describe a dataset as a whole, and text that identifies those written here.
_DESCRIPTION_FILES = {
    "nnunet": {"dataset.json": _DESCRIPTION.encode()},
    "msd": {"dataset.json": _DESCRIPTION.encode()},
    "bids": {"README": _DESCRIPTION.encode(), "dataset_description.json": _GENERATOR.encode()},
}


@dataclass(frozen=True)
class VolumePaths:
    """The files of a volume; the sidecar is written last, so a volume that has one is whole."""

    image: Path
    labels: Path
    sidecar: Path

    @property
    def files(self) -> tuple[Path, Path, Path]:
        """All of them."""
        return self.image, self.labels, self.sidecar


@dataclass(frozen=True)
class Layout:
    """`paths` maps a row to its files, relative to the dataset's folder.

    `ids` map MAISI's label ids to the dataset's, empty where they are the same. `describe` writes
    the files that describe the dataset as a whole, after its rows.
    """

    paths: Callable[[Row], VolumePaths]
    ids: Mapping[int, int] = field(default_factory=dict)
    describe: Callable[[], None] = lambda: None


def make_layout(
    name: str, folder: Path, rows: Sequence[Row], variants: Callable[[], Mapping[str, Variant]]
) -> Layout:
    """Return the layout called `name` for a plan and a folder; `variants` asks the server.

    Raises `InvalidRequest` for rows that the layout cannot hold, and for a folder whose
    descriptions are of another dataset and would be replaced.
    """
    if name == "plain":
        return Layout(_plain)
    if name not in LAYOUTS:
        raise InvalidRequest(f"the layout is '{name}'; allowed are {', '.join(LAYOUTS)}")
    for file, sign in _DESCRIPTION_FILES[name].items():
        if (folder / file).is_file() and sign not in (folder / file).read_bytes():
            raise InvalidRequest(
                f"'{folder / file}' describes another dataset; a folder without it is expected"
            )
    variants_by_name = variants()
    names = {row.arguments.get("variant") for row in rows}
    summary = _Summary(
        folder, rows, {name: choose_variant(name, variants_by_name) for name in names}
    )
    return {"nnunet": _nnunet, "msd": _msd, "bids": _bids}[name](summary)


@dataclass(frozen=True)
class _Summary:
    """The rows of a dataset, their variants, and what follows from both."""

    folder: Path
    rows: Sequence[Row]
    variants: Mapping[str | None, Variant]  # by the name in the rows, None without one

    def modality(self, row: Row) -> str:
        """Return the modality that the server will use for a row."""
        arguments = row.arguments
        variant = self.variants[arguments.get("variant")]
        preset = variant.presets.get(str(arguments.get("preset")), {})
        return str(
            arguments.get("modality") or preset.get("modality") or variant.defaults["modality"]
        )

    @property
    def modalities(self) -> list[str]:
        return sorted({self.modality(row) for row in self.rows})

    @property
    def licence(self) -> str:
        return ", ".join(sorted({variant.license for variant in self.variants.values()}))

    @property
    def labels(self) -> dict[int, str]:
        """MAISI's ids that the masks may hold, with names: `organs` if each row has it, or all."""
        table = {k: v for variant in self.variants.values() for k, v in variant.labels.items() if k}
        kept_ids: set[int] = set()
        ids = {name.lower(): id_ for id_, name in table.items()}
        for row in self.rows:
            organs = row.arguments.get("organs")
            if not organs:
                return dict(sorted(table.items()))
            words = organs.split(",") if isinstance(organs, str) else organs
            for word in (str(word).strip().lower() for word in words):
                kept_ids.add(int(word) if word.isdigit() else ids.get(word, 0))
        return {id_: name for id_, name in sorted(table.items()) if id_ in kept_ids}


def _plain(row: Row) -> VolumePaths:
    return _volume_paths("images", "labels", row.name)


def _volume_paths(images: str, labels: str, name: str, channel: str = "") -> VolumePaths:
    return VolumePaths(
        Path(images, f"{name}{channel}.nii.gz"),
        Path(labels, f"{name}.nii.gz"),
        Path("reports", f"{name}.json"),
    )


def _need_masks(layout: str, rows: Sequence[Row]) -> None:
    for row in rows:
        if not row.arguments.keys() & {"mask", "anatomy"}:
            raise InvalidRequest(
                f"row '{row.name}' has neither mask nor anatomy; {layout} wants labels for each"
            )


def _channel(summary: _Summary) -> str:
    """Return the name of the dataset's one channel, by which a trainer normalises."""
    kinds = {"CT" if modality.startswith("ct") else "MRI" for modality in summary.modalities}
    if len(kinds) > 1:
        raise InvalidRequest("the plan has CT and MR; a dataset of one channel has one of them")
    return kinds.pop()


def _consecutive(labels: Iterable[int]) -> dict[int, int]:
    """Map label ids to 1, 2, ..., as these trainers expect them; 0 is the background."""
    return {id_: number for number, id_ in enumerate(labels, 1)}


def _nnunet(summary: _Summary) -> Layout:
    """nnU-Net v2's raw dataset (its documentation/dataset_format.md): labels are 0, 1, 2, ..."""
    if not re.fullmatch(r"Dataset\d{3}_\w+", summary.folder.resolve().name):
        raise InvalidRequest(
            f"the folder is '{summary.folder}'; nnU-Net wants DatasetNNN_NAME, such as"
            " Dataset501_Synthetic"
        )
    _need_masks("nnunet", summary.rows)
    folder, labels, channel = summary.folder, summary.labels, _channel(summary)
    ids = _consecutive(labels)

    def paths(row: Row) -> VolumePaths:
        return _volume_paths("imagesTr", "labelsTr", row.name, CHANNEL)

    def describe() -> None:
        names = {name: ids[id_] for id_, name in labels.items()}
        _json(
            folder / "dataset.json",
            {
                "channel_names": {"0": channel},
                "labels": {"background": 0, **names},
                "numTraining": len(_finished_rows(folder)),
                "file_ending": ".nii.gz",
                "description": _DESCRIPTION,
                "licence": summary.licence,
            },
        )

    return Layout(paths, ids, describe)


def _msd(summary: _Summary) -> Layout:
    """Lay out as the Medical Segmentation Decathlon does, as MONAI's DecathlonDataset reads it."""
    _need_masks("msd", summary.rows)
    folder, labels, channel = summary.folder, summary.labels, _channel(summary)
    ids = _consecutive(labels)

    def paths(row: Row) -> VolumePaths:
        return _volume_paths("imagesTr", "labelsTr", row.name)

    def describe() -> None:
        rows = _finished_rows(folder)
        names = {str(ids[id_]): name for id_, name in labels.items()}
        _json(
            folder / "dataset.json",
            {
                "name": folder.resolve().name,
                "description": _DESCRIPTION,
                "licence": summary.licence,
                "tensorImageSize": "3D",
                "modality": {"0": channel},
                "labels": {"0": "background", **names},
                "numTraining": len(rows),
                "numTest": 0,
                "training": [
                    {"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"}
                    for name in rows
                ],
                "test": [],
            },
        )

    return Layout(paths, ids, describe)


def _bids(summary: _Summary) -> Layout:
    """Lay out as BIDS says, the Brain Imaging Data Structure; labels keep MAISI's ids."""
    for kind in summary.modalities:
        if kind not in _BIDS:
            raise InvalidRequest(
                f"modality '{kind}' has no name in BIDS; those that have are {', '.join(_BIDS)}"
            )
    folder, subjects = summary.folder, dict[str, str]()
    for row in summary.rows:
        other = subjects.setdefault(_subject(row.name), row.name)
        if other != row.name:
            raise InvalidRequest(
                f"rows '{other}' and '{row.name}' are both {_subject(row.name)} in BIDS, which has"
                " letters and digits alone"
            )

    def paths(row: Row) -> VolumePaths:
        subject = _subject(row.name)
        stem = Path(subject, "anat", f"{subject}_{_BIDS[summary.modality(row)]}")
        return VolumePaths(
            stem.with_name(f"{stem.name}.nii.gz"),
            _BIDS_LABELS / subject / "anat" / f"{subject}_dseg.nii.gz",
            stem.with_name(f"{stem.name}.json"),
        )

    def describe() -> None:
        for dataset in (folder, folder / _BIDS_LABELS):
            dataset.mkdir(parents=True, exist_ok=True)
            _json(
                dataset / "dataset_description.json",
                {
                    "Name": folder.resolve().name,
                    "BIDSVersion": _BIDS_VERSION,
                    "DatasetType": "derivative",
                    "GeneratedBy": [{"Name": _GENERATOR, "Version": version("maisi-client")}],
                    "License": summary.licence,
                },
            )
        labels = (f"{id_}\t{name}" for id_, name in summary.labels.items())
        _text(folder / _BIDS_LABELS / "dseg.tsv", "\n".join(["index\tname", *labels]))
        people = sorted(path.parent.parent.name for path in folder.glob("sub-*/anat/sub-*.json"))
        _text(folder / "participants.tsv", "\n".join(["participant_id", *people]))
        _text(folder / "README", _DESCRIPTION)
        _text(folder / ".bidsignore", "unfaithful/\nfailed/\n.shard*\n.describing")

    return Layout(paths, {}, describe)


def _subject(name: str) -> str:
    return "sub-" + re.sub(r"[^A-Za-z0-9]", "", name)


def _finished_rows(folder: Path) -> list[str]:
    return sorted(path.stem for path in (folder / "reports").glob("[!.]*.json"))


def _json(path: Path, value: Any) -> None:
    _text(path, json.dumps(value, indent=2))


def _text(path: Path, text: str) -> None:
    with atomic(path) as draft:
        draft.write_text(text + "\n", encoding="utf-8")
