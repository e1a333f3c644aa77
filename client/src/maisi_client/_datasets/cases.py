"""The cases of a dataset, as the reports in its folder describe them."""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from .._errors import InvalidRequest, ServerError
from .._validation import check_form, read_json_file
from .groups import connected

CASES = "cases.csv"
CASES_SIGN = "name,group,modality,seed,"  # the start of every such table
_OTHER = "'{}' is not the report of a case of this version with {}; a folder of its own is expected"
_RENUMBERED = (
    "'{}' has other numbers of labels than this plan; the same organs in all rows of all plans,"
    " or a folder of its own is expected"
)
_FORM = {
    "name": str,
    "group": str,
    "files": {
        "image": str,
        "labels?": str,
        "layout": str,
        "channels?": [str],
        "label_ids?": {str: int},
    },
    "variant": str,
    "modality": str,
    "seed": int,
    "request": {"mask?": (str, type(None)), "source?": (str, type(None))},
    "sha256": {"image": str, "mask?": str, "used_mask?": str, "source?": str},
    "weights": {str: str},
    "weights_license?": str,
    "plan_license?": str,
    "warnings?": [str],
    "anatomy?": (dict, type(None)),
    "augmented?": (bool, type(None)),
}


@dataclass(frozen=True)
class Common:
    """What all cases of a folder have in common: the layout, the channels, the numbers of labels.

    `channels` is empty if each case has one image. `label_ids` maps MAISI's label ids to those of
    the dataset; it is empty if they are the same.
    """

    layout: str
    channels: Sequence[str] = ()
    label_ids: Mapping[int, int] = field(default_factory=dict)

    def entries(self) -> dict[str, Any]:
        """Return the entries of `files` in the report of a case."""
        ids = {str(id_): number for id_, number in self.label_ids.items()}
        return {
            "layout": self.layout,
            **({"channels": list(self.channels)} if self.channels else {}),
            **({"label_ids": ids} if ids else {}),
        }

    def __str__(self) -> str:
        """Return the layout and the channels, for a message."""
        channels = ", ".join(self.channels)
        named = f"the channels {channels}" if channels else "one channel"
        return f"{named} in the layout {self.layout}"


@dataclass(frozen=True)
class Case:
    """A finished row of a plan.

    `images`, `labels` and `reports` are paths relative to the dataset's folder. `images` has one
    path if one file has all channels. `labels` is empty if the row has no mask. `reports` and their
    `contents` have one item for each channel.
    """

    name: str
    group: str
    images: tuple[str, ...]
    labels: str
    reports: tuple[str, ...]
    contents: tuple[Mapping[str, Any], ...]

    @property
    def modalities(self) -> list[str]:
        """The modality of each channel."""
        return [str(content["modality"]) for content in self.contents]


def read_report(path: Path, common: Common) -> dict[str, Any]:
    """Return the report of a channel of a case.

    Raises `InvalidRequest` if the file is not such a report, or has other values of `common`.
    """
    try:
        report = read_json_file(path)
        check_form("it", report, _FORM)
    except (OSError, ValueError, ServerError) as error:
        raise InvalidRequest(f"{_OTHER.format(path, common)}: {error}") from error
    entries = {"channels": [], "label_ids": {}, **report["files"]}
    expected = {"channels": [], "label_ids": {}, **common.entries()}
    known_channel = not common.channels or report["modality"] in common.channels
    if not known_channel or any(entries[key] != expected[key] for key in ("layout", "channels")):
        raise InvalidRequest(_OTHER.format(path, common))
    if entries["label_ids"] != expected["label_ids"]:
        raise InvalidRequest(_RENUMBERED.format(path))
    return report


def finished_cases(folder: Path, pattern: str, common: Common) -> list[Case]:
    """Return the cases of a dataset that have all their reports, sorted by name.

    Reports are the files below `folder` that match `pattern`. Cases get the same group if they have
    the same group, mask or source, or neither mask nor source and the same seed, even if different
    plans named their groups differently. Masks and sources are the same if their digests are. The
    mask that the server made or changed counts like that of the request.
    """
    by_name: dict[str, dict[int, tuple[str, dict[str, Any]]]] = defaultdict(dict)
    for path in sorted(folder.glob(pattern)):
        if not path.name.startswith("."):
            report = read_report(path, common)
            channel = common.channels.index(report["modality"]) if common.channels else 0
            by_name[report["name"]][channel] = path.relative_to(folder).as_posix(), report
    cases = [
        _case(name, [parts[channel] for channel in sorted(parts)])
        for name, parts in sorted(by_name.items())
        if len(parts) == max(1, len(common.channels))
    ]
    components = connected([_anatomies(case) for case in cases])
    return [
        replace(case, group=cases[component].group)
        for case, component in zip(cases, components, strict=True)
    ]


def cases_table(cases: Sequence[Case]) -> str:
    """Return `cases.csv`: a line for each case, with its group, files, modalities and seed."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(columns(cases))
    for case in cases:
        cells = [case.name, case.group, ",".join(case.modalities), case.contents[0]["seed"]]
        table.writerow([*cells, case.labels, *case.images, *case.reports])
    return text.getvalue()


def groups_of_cases(folder: Path) -> dict[str, str]:
    """Return the group of each case in `cases.csv`, which joins groups of several plans."""
    path = folder / CASES
    text = path.read_text("utf-8", "replace") if path.is_file() else ""
    if not text.startswith(CASES_SIGN):  # a file of the user
        return {}
    return {case["name"]: case["group"] for case in csv.DictReader(io.StringIO(text))}


def columns(cases: Sequence[Case]) -> list[str]:
    """Return the header of `cases.csv`.

    If a case has several images or reports, the name of each column ends with the modality.
    """
    head = [*CASES_SIGN.rstrip(",").split(","), "labels"]
    for kind in ("image", "report"):
        files = 1 if not cases else len(getattr(cases[0], f"{kind}s"))
        head += [kind] if files == 1 else [f"{kind}_{name}" for name in cases[0].modalities]
    return head


def _case(name: str, parts: Sequence[tuple[str, dict[str, Any]]]) -> Case:
    reports, contents = zip(*parts, strict=True)
    files = [content["files"] for content in contents]
    images = tuple(dict.fromkeys(file["image"] for file in files))
    group, labels = contents[0]["group"], files[0].get("labels", "")
    return Case(name, group, images, labels, reports, contents)


def _anatomies(case: Case) -> list[tuple[str, Any]]:
    """Return keys for the group of a case and for the origin of its anatomy."""
    report = case.contents[0]
    digests = report["sha256"]
    keys = [("group", case.group)] + [
        (kind, digests[name])
        for name, kind in (("mask", "mask"), ("used_mask", "mask"), ("source", "source"))
        if name in digests
    ]
    made_here = not digests.keys() & {"mask", "source"}
    return [*keys, ("seed", report["seed"])] if made_here else keys
