"""What a dataset says of itself: a table with groups, a card, Croissant metadata, splits."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import pytest
from huggingface_hub import DatasetCard
from maisi_client import Client, Row
from maisi_client._datasets.cases import Common, finished_cases

from tests.client.datasets.sets import make, plan

FILES = ("cases.csv", "README.md", "croissant.json", "dataset.json", "splits_final.json")
NAME = "Dataset501_Synthetic"


def table(to: Path) -> list[dict[str, str]]:
    with (to / "cases.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def sides(to: Path) -> Iterator[tuple[set[str], set[str]]]:
    """Yield the digests of the masks in training and in validation of each fold."""
    masks = {}
    for path in (to / "reports").glob("*.json"):
        report = json.loads(path.read_text())
        masks[report["name"]] = report["sha256"]["mask"]
    for split in json.loads((to / "splits_final.json").read_text()):
        train, val = ({masks[name] for name in split[side]} for side in ("train", "val"))
        yield train, val


@pytest.mark.usefixtures("faithful")
def test_shards_and_later_runs_describe_the_same(client: Client, tmp_path: Path) -> None:
    rows, whole, parts = plan(tmp_path, 12, 6), tmp_path / "a" / NAME, tmp_path / "b" / NAME
    make(client, rows, whole, layout="nnunet")
    first = make(client, rows, parts, layout="nnunet", shard=(1, 2))
    assert first == ["done"] * 6 and len(table(parts)) == 6
    assert make(client, rows, parts, layout="nnunet", shard=(0, 2)) == ["done"] * 6
    for file in FILES:
        assert (whole / file).read_bytes() == (parts / file).read_bytes(), file
    assert [row["group"] for row in table(whole)] == [f"mask-{n % 6}" for n in range(12)]
    folds = list(sides(whole))
    assert len(folds) == 5
    assert [len(train & val) for train, val in folds] == [0] * 5
    assert all(len(train | val) == 6 and val for train, val in folds)


@pytest.mark.usefixtures("faithful")
def test_what_another_plan_has_made_is_described_too(client: Client, tmp_path: Path) -> None:
    rows, to = plan(tmp_path, 4, 2), tmp_path / NAME
    make(client, [Row(row.name, row.arguments, group="p") for row in rows[:1]], to, layout="nnunet")
    make(client, rows[1:], to, layout="nnunet")
    # The mask of the first row is that of the third, although the plans name it differently.
    assert [(row["name"], row["group"]) for row in table(to)] == [
        ("case-00", "p"),
        ("case-01", "mask-1"),
        ("case-02", "p"),
        ("case-03", "mask-1"),
    ]
    assert [len(train & val) for train, val in sides(to)] == [0] * 5


@pytest.mark.usefixtures("faithful")
@pytest.mark.parametrize("layout", ["nnunet", "bids"])
def test_a_mask_that_was_saved_again_is_the_same_anatomy(
    client: Client, tmp_path: Path, layout: str
) -> None:
    rows, to = plan(tmp_path, 2, 2), tmp_path / NAME
    nib.save(nib.load(tmp_path / "mask-0.nii.gz"), tmp_path / "again.nii")
    rows.append(Row("copy", {**rows[0].arguments, "mask": tmp_path / "again.nii"}))
    make(client, rows, to, layout=layout)
    cases = table(to)
    assert [row["group"] for row in cases] == ["mask-0", "mask-1", "mask-0"]
    assert [json.loads((to / row["report"]).read_text())["group"] for row in cases] == [
        *("mask-0", "mask-1", "mask-0")
    ]
    if layout == "bids":
        assert sorted(path.name for path in to.glob("sub-*")) == ["sub-mask0", "sub-mask1"]
        people = (to / "participants.tsv").read_text().splitlines()
        assert people[1:] == ["sub-mask0\tmask-0", "sub-mask1\tmask-1"]


@pytest.mark.parametrize(
    ("one", "other", "alike"),
    [
        ({"used_mask": "m"}, {"used_mask": "m"}, True),  # generated twice, or augmented the same
        ({"used_mask": "m", "mask": "a"}, {"mask": "m"}, True),
        ({"used_mask": "m", "mask": "a"}, {"used_mask": "n", "mask": "b"}, False),
        ({"source": "s"}, {"used_mask": "n", "mask": "b", "source": "s"}, True),
        ({"used_mask": "m"}, {"used_mask": "n", "mask": "b"}, False),
    ],
)
def test_cases_of_one_mask_have_one_group(
    tmp_path: Path, one: dict[str, str], other: dict[str, str], alike: bool
) -> None:
    reports = [report("a", 1, **one), report("b", 2, **other)]
    assert len(groups(tmp_path, *reports)) == 2 - alike


def test_cases_that_the_server_made_of_one_seed_have_one_group(tmp_path: Path) -> None:
    generated, again = report("a", 1, used_mask="m"), report("b", 1, used_mask="n", variant="other")
    own_mask = report("c", 1, mask="o")
    assert groups(tmp_path, generated, again, report("d", 1), own_mask) == {"a", "c"}


def report(name: str, seed: int, variant: str = "mini", **digests: str) -> dict[str, Any]:
    """Return the report of a case whose group has its name."""
    return {
        **{
            "name": name,
            "group": name,
            "files": {"image": "i", "layout": "plain"},
            "variant": variant,
        },
        **{"modality": "mri_t1", "seed": seed, "request": {}, "weights": {}},
        "sha256": {"image": "i", **digests},
    }


def groups(folder: Path, *reports: dict[str, Any]) -> set[str]:
    """Return the groups of finished cases with these reports."""
    for content in reports:
        (folder / f"{content['name']}.json").write_text(json.dumps(content))
    return {case.group for case in finished_cases(folder, "*.json", Common("plain"))}


@pytest.fixture(scope="module")
def described(client: Client, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a set with cases that are faithful, not faithful, and failed, and of a plan's terms.

    One has a mask, one an augmented mask, one none.
    """
    folder = tmp_path_factory.mktemp("described")
    rows = plan(folder, 3, 2)
    rows[1] = Row("case-01", {**rows[1].arguments, "augment": True}, "CC-BY-4.0, from a cohort")
    rows[2] = Row("case-02", {"size": [32, 32, 32], "steps": 1, "seed": 2})
    rows.append(Row("bad", {"size": [32, 32, 32], "modality": "mri_t9"}))
    rows.append(Row("astray", {**rows[0].arguments, "seed": 9}))
    generate = Client.generate

    def measured(self: Client, *args: Any, **arguments: Any) -> Any:
        volume: Any = generate(self, *args, **arguments)
        volume.report["fidelity"] = {"faithful": arguments["seed"] != 9}
        return volume

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Client, "generate", measured)
        states = make(client, rows, folder / "set")
    assert states == ["done", "done", "done", "failed", "unfaithful"]
    return folder / "set"


def test_the_card_is_what_hugging_face_reads(client: Client, described: Path) -> None:
    card = DatasetCard.load(described / "README.md")
    fields = card.data.to_dict()
    assert fields["license"] == "other" and fields["pretty_name"] == "set"
    assert fields["license_name"] == "apache-2.0-and-cc-by-4.0"
    assert fields["size_categories"] == ["n<1K"] and "synthetic" in fields["tags"]
    assert fields["configs"] == [{"config_name": "default", "data_files": "cases.csv"}]
    for network, digest in client.info()["mini"].weights.items():
        assert f"| mini | {network} | `{digest}` | 3 |" in card.text
    for line in (
        "- Weights of mini: Apache-2.0",
        "- Plan: CC-BY-4.0, from a cohort",
        "| supplied by the user | 1 |",
        "| supplied by the user, augmented by the server | 1 |",
        "| none | 1 |",
        "3 cases of 3 anatomies",
        "does not follow its mask: 1 (files in unfaithful/). Rows that failed: 1 (errors in",
        "is far from what mini was trained for",
    ):
        assert line in card.text, line


def test_the_metadata_is_croissant(client: Client, described: Path) -> None:
    import mlcroissant

    dataset = mlcroissant.Dataset(jsonld=described / "croissant.json")
    issues = dataset.metadata.ctx.issues
    assert not issues.errors
    # What only those who publish the set can say.
    unsaid = {"citeAs", "datePublished", "version"}
    assert all(any(f"/{name}" in text for name in unsaid) for text in issues.warnings)
    records = list(dataset.records("cases"))
    rows = table(described)
    assert [
        {key.removeprefix("cases/"): _text(value) for key, value in record.items()}
        for record in records
    ] == rows
    metadata = dataset.metadata
    assert any("3 anatomies" in limit for limit in metadata.data_limitations)
    assert "Rows that failed: 1" in metadata.data_collection_missing_data
    written = json.loads((described / "croissant.json").read_text())
    digests = {one["name"]: one["sha256"] for one in written["isBasedOn"]}
    assert digests == {
        f"weights of {network} of mini": digest
        for network, digest in client.info()["mini"].weights.items()
    }
    sets = {one["name"]: one["includes"] for one in written["distribution"][1:]}
    assert sets.keys() == {"images", "labels", "reports"}
    for name, column in (("images", "image"), ("labels", "labels"), ("reports", "report")):
        files = {path.relative_to(described).as_posix() for path in described.glob(sets[name])}
        assert files == {row[column] for row in rows} - {""}


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode()
    return "" if value is None or value != value else str(value)


def test_a_set_without_a_case_says_so_in_every_layout(client: Client, tmp_path: Path) -> None:
    import mlcroissant

    rows = plan(tmp_path, 1, 1, steps=0)
    for layout in ("nnunet", "msd", "bids"):
        to = tmp_path / layout / NAME
        assert make(client, rows, to, layout=layout) == ["failed"]
        assert "0 cases of 0 anatomies" in (to / "README.md").read_text()
        assert not mlcroissant.Dataset(jsonld=to / "croissant.json").metadata.ctx.issues.errors
