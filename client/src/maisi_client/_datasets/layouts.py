"""Where the files of a dataset lie, and the file that tells a trainer what they are."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from .._errors import InvalidRequest
from .._files import atomic
from .._variant import Variant, named
from .files import CHANNEL, LAYOUTS
from .plan import Row

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
_ABOUT = "Synthetic volumes, made by generative models of masks. No patient was scanned."
_GENERATOR = "maisi-triton"
# Files that describe a dataset as a whole, and what those that were written here have in them.
_DESCRIPTIONS = {
    "nnunet": {"dataset.json": _ABOUT.encode()},
    "msd": {"dataset.json": _ABOUT.encode()},
    "bids": {"README": _ABOUT.encode(), "dataset_description.json": _GENERATOR.encode()},
}


@dataclass(frozen=True)
class Places:
    """The files of a volume; the sidecar is written last, so what has one is whole."""

    image: Path
    labels: Path
    sidecar: Path

    @property
    def files(self) -> tuple[Path, Path, Path]:
        """All of them."""
        return self.image, self.labels, self.sidecar


@dataclass(frozen=True)
class Layout:
    """`place` maps a row to its `Places` in the dataset.

    `ids` are the labels that a trainer is told of, MAISI's id to the dataset's, where those differ.
    `describe` writes what the dataset as a whole is to have, when the rows are made.
    """

    place: Callable[[Row], Places]
    ids: Mapping[int, int] = field(default_factory=dict)
    describe: Callable[[], None] = lambda: None


def of(
    name: str, folder: Path, rows: Sequence[Row], variants: Callable[[], Mapping[str, Variant]]
) -> Layout:
    """Return the layout of `LAYOUTS` for a plan into a folder; `variants` asks what is served.

    Raises `InvalidRequest` for rows that the layout has no place for, and for a folder with the
    descriptions of another dataset, which would be replaced.
    """
    if name == "plain":
        return Layout(_plain)
    if name not in LAYOUTS:
        raise InvalidRequest(f"the layout is '{name}'; allowed are {', '.join(LAYOUTS)}")
    for file, sign in _DESCRIPTIONS[name].items():
        if (folder / file).is_file() and sign not in (folder / file).read_bytes():
            raise InvalidRequest(
                f"'{folder / file}' describes another dataset; a folder without it is expected"
            )
    served = variants()
    asked = {row.arguments.get("variant") for row in rows}
    about = _About(folder, rows, {name: named(name, served) for name in asked})
    return {"nnunet": _nnunet, "msd": _msd, "bids": _bids}[name](about)


@dataclass(frozen=True)
class _About:
    folder: Path
    rows: Sequence[Row]
    variants: Mapping[str | None, Variant]  # by the name that rows have, None without one

    def modality(self, row: Row) -> str:
        """Return what the server will take for a row."""
        asked = row.arguments
        variant = self.variants[asked.get("variant")]
        preset = variant.presets.get(str(asked.get("preset")), {})
        return str(asked.get("modality") or preset.get("modality") or variant.defaults["modality"])

    @property
    def modalities(self) -> list[str]:
        return sorted({self.modality(row) for row in self.rows})

    @property
    def licence(self) -> str:
        return ", ".join(sorted({variant.license for variant in self.variants.values()}))

    @property
    def labels(self) -> dict[int, str]:
        """MAISI's ids that the masks may hold, with names; `organs`, if each row has it, says."""
        table = {k: v for variant in self.variants.values() for k, v in variant.labels.items() if k}
        wanted: set[int] = set()
        ids = {name.lower(): id_ for id_, name in table.items()}
        for row in self.rows:
            organs = row.arguments.get("organs")
            if not organs:
                return dict(sorted(table.items()))
            words = organs.split(",") if isinstance(organs, str) else organs
            for word in (str(word).strip().lower() for word in words):
                wanted.add(int(word) if word.isdigit() else ids.get(word, 0))
        return {id_: name for id_, name in sorted(table.items()) if id_ in wanted}


def _plain(row: Row) -> Places:
    return _places("images", "labels", row.name)


def _places(images: str, labels: str, name: str, channel: str = "") -> Places:
    return Places(
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


def _channel(about: _About) -> str:
    """Return the one channel of a trainer, whose name tells it how to normalise."""
    kinds = {"CT" if modality.startswith("ct") else "MRI" for modality in about.modalities}
    if len(kinds) > 1:
        raise InvalidRequest("the plan has CT and MR; a dataset of one channel has one of them")
    return kinds.pop()


def _consecutive(labels: Iterable[int]) -> dict[int, int]:
    """Return labels by number from 1, as these trainers want them; 0 is the background."""
    return {id_: number for number, id_ in enumerate(labels, 1)}


def _nnunet(about: _About) -> Layout:
    """nnU-Net v2's raw dataset (its documentation/dataset_format.md): labels are 0, 1, 2, ..."""
    if not re.fullmatch(r"Dataset\d{3}_\w+", about.folder.resolve().name):
        raise InvalidRequest(
            f"the folder is '{about.folder}'; nnU-Net wants DatasetNNN_NAME, such as"
            " Dataset501_Synthetic"
        )
    _need_masks("nnunet", about.rows)
    folder, labels, channel = about.folder, about.labels, _channel(about)
    ids = _consecutive(labels)

    def place(row: Row) -> Places:
        return _places("imagesTr", "labelsTr", row.name, CHANNEL)

    def describe() -> None:
        names = {name: ids[id_] for id_, name in labels.items()}
        _json(
            folder / "dataset.json",
            {
                "channel_names": {"0": channel},
                "labels": {"background": 0, **names},
                "numTraining": len(_made(folder)),
                "file_ending": ".nii.gz",
                "description": _ABOUT,
                "licence": about.licence,
            },
        )

    return Layout(place, ids, describe)


def _msd(about: _About) -> Layout:
    """Lay out as the Medical Segmentation Decathlon does, as MONAI's DecathlonDataset reads it."""
    _need_masks("msd", about.rows)
    folder, labels, channel = about.folder, about.labels, _channel(about)
    ids = _consecutive(labels)

    def place(row: Row) -> Places:
        return _places("imagesTr", "labelsTr", row.name)

    def describe() -> None:
        made = _made(folder)
        names = {str(ids[id_]): name for id_, name in labels.items()}
        _json(
            folder / "dataset.json",
            {
                "name": folder.resolve().name,
                "description": _ABOUT,
                "licence": about.licence,
                "tensorImageSize": "3D",
                "modality": {"0": channel},
                "labels": {"0": "background", **names},
                "numTraining": len(made),
                "numTest": 0,
                "training": [
                    {"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"}
                    for name in made
                ],
                "test": [],
            },
        )

    return Layout(place, ids, describe)


def _bids(about: _About) -> Layout:
    """Lay out as BIDS says, the Brain Imaging Data Structure; labels keep MAISI's ids."""
    for kind in about.modalities:
        if kind not in _BIDS:
            raise InvalidRequest(
                f"modality '{kind}' has no name in BIDS; those that have are {', '.join(_BIDS)}"
            )
    folder, subjects = about.folder, dict[str, str]()
    for row in about.rows:
        other = subjects.setdefault(_subject(row.name), row.name)
        if other != row.name:
            raise InvalidRequest(
                f"rows '{other}' and '{row.name}' are both {_subject(row.name)} in BIDS, which has"
                " letters and digits alone"
            )

    def place(row: Row) -> Places:
        subject = _subject(row.name)
        stem = Path(subject, "anat", f"{subject}_{_BIDS[about.modality(row)]}")
        return Places(
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
                    "License": about.licence,
                },
            )
        labels = (f"{id_}\t{name}" for id_, name in about.labels.items())
        _text(folder / _BIDS_LABELS / "dseg.tsv", "\n".join(["index\tname", *labels]))
        people = sorted(path.parent.parent.name for path in folder.glob("sub-*/anat/sub-*.json"))
        _text(folder / "participants.tsv", "\n".join(["participant_id", *people]))
        _text(folder / "README", _ABOUT)
        _text(folder / ".bidsignore", "unfaithful/\nfailed/\n.shard*\n.describing")

    return Layout(place, {}, describe)


def _subject(name: str) -> str:
    return "sub-" + re.sub(r"[^A-Za-z0-9]", "", name)


def _made(folder: Path) -> list[str]:
    return sorted(path.stem for path in (folder / "reports").glob("[!.]*.json"))


def _json(path: Path, value: Any) -> None:
    _text(path, json.dumps(value, indent=2))


def _text(path: Path, text: str) -> None:
    with atomic(path) as draft:
        draft.write_text(text + "\n", encoding="utf-8")
