"""No output replaces an input, whatever its name; it is refused before a server is asked."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from maisi_client import Client, InvalidRequest, Row, Volume, make_dataset, save_dicom, write_plan
from maisi_client._cli import main
from maisi_client._outputs import check_outputs

from tests.client.command import NOBODY
from tests.conftest import Server


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make `data`, with some inputs, the current folder; `tmp_path/alias` leads to it, too."""
    data = tmp_path / "data"
    data.mkdir()
    for name in ("a.nii.gz", "b_mask.nii.gz", "source.nii.gz"):
        nib.save(nib.Nifti1Image(np.full((32, 32, 32), 22, np.uint8), np.eye(4)), data / name)
    request = {"mask": str(data / "a.nii.gz"), "source": str(data / "source.nii.gz")}
    report = {"request": request, "sha256": {"image": "0"}, "variant": "mini"}
    (data / "r.json").write_text(json.dumps({**report, "weights": {}, "versions": {}}))
    (data / "table.csv").write_text("classified_modality\n")
    (tmp_path / "alias").symlink_to(data)
    os.link(data / "a.nii.gz", data / "hard.nii.gz")
    (data / "soft.nii.gz").symlink_to("a.nii.gz")
    monkeypatch.chdir(data)
    monkeypatch.setenv("MAISI_URL", NOBODY)
    return data


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


A = ["a.nii.gz", "./a.nii.gz", "../data/a.nii.gz", "../alias/a.nii.gz", "hard.nii.gz"]
COMMANDS = {
    **{f"mask as {name}": (f"generate a.nii.gz -o {name}", "-o", "MASK") for name in A},
    "a link to the mask": ("generate a.nii.gz -o soft.nii.gz", "-o", "MASK"),
    "the mask as a link": ("generate soft.nii.gz -o a.nii.gz", "-o", "MASK"),
    "mask of the output": ("generate b_mask.nii.gz -o b.nii.gz", "the mask of -o", "MASK"),
    "mask of .nii": ("generate b_mask.nii.gz -o ./b.nii", "the mask of -o", "MASK"),
    "source": ("generate --source source.nii.gz -o source.nii.gz", "-o", "--source"),
    "picture over mask": (
        "generate a.nii.gz -o v.nii.gz --preview hard.nii.gz",
        "--preview",
        "MASK",
    ),
    "picture over key": ("generate -o v.nii.gz --ca r.json --preview r.json", "--preview", "--ca"),
    "mask over mask": ("mask a.nii.gz -o soft.nii.gz --augment", "-o", "MASK"),
    "picture of volumes": ("preview a.nii.gz source.nii.gz -o source.nii.gz", "-o", "VOLUME"),
    "report": ("reproduce r.json -o r.nii.gz", "the report of -o", "REPORT"),
    "mask of a report": ("reproduce r.json -o hard.nii.gz", "-o", "the mask of REPORT"),
    "source of a report": ("reproduce r.json -o source.nii.gz", "-o", "the source of REPORT"),
    "mask beside a report": (
        "reproduce r.json --mask b_mask.nii.gz -o b.nii",
        "the mask",
        "--mask",
    ),
    "plan over a table": ("plan table.csv -n 2 --like table.csv", "PLAN", "--like"),
}


@pytest.mark.parametrize(("words", "output", "input_"), COMMANDS.values(), ids=COMMANDS.keys())
def test_a_command_keeps_its_inputs(
    folder: Path, capsys: pytest.CaptureFixture[str], words: str, output: str, input_: str
) -> None:
    before = contents(folder)
    assert main(words.split()) == 1
    message = capsys.readouterr().err
    assert message.startswith(f"maisi: {output}") and f", the same file as {input_} '" in message
    assert message.endswith("; an output must not replace an input\n") and message.count("\n") == 1
    assert contents(folder) == before


@pytest.mark.parametrize(
    "words",
    [
        "generate -o v.nii.gz --preview v.nii.gz",
        "generate -o v.nii.gz --preview ../alias/v.json",
        "generate -o v.nii.gz --preview V_mask.nii.gz",
    ],
)
def test_outputs_that_are_one_another(
    folder: Path, capsys: pytest.CaptureFixture[str], words: str
) -> None:
    assert main(words.split()) == 1
    assert "each output needs its own name" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("generate -o v.nii.gz --preview pipe", "--preview is 'pipe'; it exists and is"),
        ("generate -o v.nii.gz --preview .", "--preview is '.'; it exists and is not a regular"),
        ("preview a.nii.gz a.nii.gz -o ./pipe", "-o is './pipe'; it exists and is not"),
        ("plan missing/p.csv -n 1", "folder 'missing' does not exist or cannot be written"),
    ],
)
def test_outputs_that_cannot_be_written(
    folder: Path, capsys: pytest.CaptureFixture[str], words: str, message: str
) -> None:
    os.mkfifo(folder / "pipe")  # as any device
    assert main(words.split()) == 1
    assert message in capsys.readouterr().err


def test_what_exists_and_is_no_input_may_be_replaced(folder: Path) -> None:
    os.symlink("nowhere", folder / "broken.nii.gz")
    outputs = ["source.nii.gz", "new.png", "broken.nii.gz", None]
    check_outputs([("MASK", "a.nii.gz"), ("--key", None)], [("-o", path) for path in outputs])


def test_a_volume_does_not_replace_what_it_was_made_of(server: Server, folder: Path) -> None:
    before = contents(folder)
    with Client(server.grpc) as client:
        volume = client.generate("b_mask.nii.gz", augment=True, steps=1, source="source.nii.gz")
    assert volume.mask is not None
    for path in ("b.nii", "source.nii.gz", folder / "../alias/b_mask.nii.gz"):
        with pytest.raises(InvalidRequest, match="must not replace an input"):
            volume.save(path)
    assert contents(folder) == before
    volume.save("c.nii.gz")
    Volume.load("c.nii.gz").save("c.nii.gz")  # a volume's own files are no inputs
    assert {path.name for path in folder.glob("c*")} == {"c.nii.gz", "c.json", "c_mask.nii.gz"}


def test_a_plan_does_not_replace_a_mask(folder: Path) -> None:
    os.link("a.nii.gz", "plan.csv")
    before = contents(folder)
    with pytest.raises(InvalidRequest, match=r"the plan is 'plan.csv', .* the mask of row one, 'a"):
        write_plan([Row("one", {"mask": "a.nii.gz"})], "plan.csv")
    assert contents(folder) == before


@pytest.mark.parametrize(
    "place",
    ["labels/two.nii.gz", "images/two.nii.gz", "unfaithful/labels/two.nii.gz", "failed/two.json"],
)
@pytest.mark.parametrize("key", ["mask", "source"])
@pytest.mark.parametrize("put", [os.rename, os.link, os.symlink])
def test_a_dataset_does_not_replace_what_its_rows_are_made_of(
    folder: Path, place: str, key: str, put: Callable[[Path, Path], None]
) -> None:
    at = folder / "set" / place
    at.parent.mkdir(parents=True)
    put(folder / "source.nii.gz", at)
    before = at.read_bytes()
    rows = [Row("one", {key: at}), Row("two", {"mask": folder / "a.nii.gz"})]
    with Client(NOBODY, retries=0) as client:
        for shard in ((0, 1), (1, 2)):  # of the second, too, which the input is none of
            with pytest.raises(InvalidRequest, match=f"of row 'two' is '.*{at.name}', the same"):
                list(make_dataset(rows, folder / "set", client, shard=shard))
    assert at.read_bytes() == before


@pytest.mark.parametrize("to", [".", "../empty", "no/new", "a.nii.gz", ".."])
def test_a_series_has_its_own_folder(
    folder: Path, monkeypatch: pytest.MonkeyPatch, to: str
) -> None:
    pytest.importorskip("highdicom")
    (folder.parent / "empty").mkdir()
    monkeypatch.chdir(folder.parent / "empty")
    image = nib.Nifti1Image(np.zeros((4, 4, 4), np.int16), np.eye(4))
    message = r"is the current folder|exists already|folder '.*' does not exist"
    with pytest.raises(InvalidRequest, match=message):
        save_dicom(Volume(image, {"modality": "mri_t1"}), folder if to == "a.nii.gz" else to)
    assert list((folder.parent / "empty").iterdir()) == []
