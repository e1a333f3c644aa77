"""Code blocks of the documentation: commands are parsed, and Python runs against a server."""

from __future__ import annotations

import contextlib
import io
import re
import shutil
from pathlib import Path
from typing import Any

import maisi_client
import nibabel as nib
import pytest
from maisi_client._cli.entry import main
from maisi_client._cli.parser import parser

import bench.__main__
import export.__main__
import server.__main__
from bench import servers
from tests.conftest import ROOT, Server
from tests.docs.blocks import blocks, commands, names

PYTHON = blocks("python")
# Parts of blocks that are not run here, and why.
NOT_RUN = {
    "rflow-": "NVIDIA's weights",
    "pacs.example": "a PACS",
    "criterion(": "a network of the reader's",
    "held-out": "real scans",
    'read_table("pairs"': "files of a run of Ray",
}
# Commands of `maisi` that are not run here, and why.
COMMANDS_NOT_RUN = {
    "rflow-": "NVIDIA's weights",
    "our-brain": "weights of the reader's",
    "candidates.json": "NVIDIA's masks",
    "--like": "tables of MR-RATE",
    "pacs.example": "a PACS",
    "held-out": "real scans",
    "studio": "a browser",
    "set/images/": "a dataset in the layout of the lines before",
}


def parse(words: list[str]) -> None:
    """Parse a command of this project as it does itself; a command of others is left out."""
    name, *rest = words
    if name == "maisi":
        parser().parse_args(rest)
    elif name == "scripts/serve":
        server.__main__.arguments(rest)
    elif words[:3] == ["python", "-m", "export"]:
        verb = [] if words[3] in ("fetch", "build", "verify") else ["build"]
        export.__main__._parser().parse_args([*verb, *words[3:]])
    elif name == "scripts/bench" and rest:
        assert rest[0] in bench.__main__.NAMES
    elif name.startswith("scripts/"):
        assert name.removeprefix("scripts/") in names(ROOT / "scripts")


@pytest.mark.parametrize("page", sorted({page for page, _ in commands()}))
def test_every_command_is_one(page: str) -> None:
    for name, words in commands():
        if name == page:
            errors = io.StringIO()
            try:
                with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(errors):
                    parse(words)
            except SystemExit as error:
                asked = {"-h", "--help", "--version"} & set(words)
                assert error.code == 0 and asked, f"{' '.join(words)}: {errors.getvalue()}"


def test_a_wrong_option_is_noticed() -> None:
    with contextlib.redirect_stderr(io.StringIO()), pytest.raises(SystemExit):
        parse(["maisi", "generate", "mask.nii.gz", "--no-such-option"])


@pytest.mark.parametrize("number", range(len(PYTHON)))
def test_python_compiles(number: int) -> None:
    compile(PYTHON[number].text, PYTHON[number].page, "exec")


def test_reasons_not_to_run_a_block_are_used() -> None:
    for part in NOT_RUN:
        assert any(part in block.text for block in PYTHON), part
    texts = [" ".join(words) for _, words in commands()]
    for part in COMMANDS_NOT_RUN:
        assert any(part in text for text in texts), part


def write_files(folder: Path) -> None:
    """Write the files that the pages assume: masks, a volume without a report, plans."""
    nib.save(servers.picture((32, 32, 32)), folder / "mask.nii.gz")
    nib.save(servers.picture((32, 32, 32), "f4"), folder / "t1.nii.gz")
    for name in ("examples/brain_mask", "masks/one", "edited_mask"):
        path = folder / f"{name}.nii.gz"
        path.parent.mkdir(exist_ok=True)
        shutil.copy(folder / "mask.nii.gz", path)
    (folder / "masks.csv").write_text("name,mask,seed,steps\ncase-1,mask.nii.gz,1,1\n")
    row = "case-1,mask.nii.gz,mri_t1,1,8"
    (folder / "plan.csv").write_text(f"name,mask,modality,seed,steps\n{row}\n")


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(PYTHON)))
def test_python_runs(
    number: int, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    block = PYTHON[number]
    for part, reason in NOT_RUN.items():
        if part in block.text:
            pytest.skip(f"needs {reason}")
    monkeypatch.chdir(tmp_path)
    write_files(tmp_path)
    text = re.sub(r"(localhost|\ba|\bb):8001(,b:8001)?", server.grpc, block.text)
    text = re.sub(r"\b1000\b", "2", text)
    with maisi_client.Client(server.grpc) as client:
        scope: dict[str, Any] = {"client": client, "maisi_client": maisi_client}
        exec(compile(text, block.page, "exec"), scope)


def runs(words: list[str]) -> bool:
    return words[0] in ("maisi", "cd") and not any(
        part in " ".join(words) for part in COMMANDS_NOT_RUN
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "page", sorted({page for page, words in commands() if words[0] == "maisi" and runs(words)})
)
def test_commands_run(
    page: str, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commands of a page run in their order, in a folder with the files that pages assume."""
    monkeypatch.setenv("MAISI_URL", server.grpc)
    monkeypatch.chdir(tmp_path)
    write_files(tmp_path)
    for path in ("examples/brain_mask.nii.gz", "mask.nii.gz", "edited_mask.nii.gz"):
        shutil.copy(ROOT / "examples/brain_mask.nii.gz", path)
    with maisi_client.Client(server.grpc) as client:
        volume = client.generate("mask.nii.gz", modality="mri_flair", steps=8)
    for name in ("flair", "ct", "flair_before", "t1"):
        volume.save(f"{name}.nii.gz")
    assert main(["dataset", "plan.csv", "--to", "training-set"]) == 0
    shutil.copy("flair.json", "elsewhere.json")
    for name, words in commands():
        if name == page and runs(words):
            if words[0] == "cd":
                monkeypatch.chdir(words[1])
                continue
            words = [server.grpc if ":8001" in word else word for word in words]
            assert main(words[1:]) == 0, " ".join(words)
