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
    nib.save(servers.picture((32, 32, 32)), "mask.nii.gz")
    nib.save(servers.picture((32, 32, 32), "f4"), "t1.nii.gz")
    (tmp_path / "examples").mkdir()
    shutil.copy("mask.nii.gz", "examples/brain_mask.nii.gz")
    (tmp_path / "masks").mkdir()
    shutil.copy("mask.nii.gz", "masks/one.nii.gz")
    (tmp_path / "plan.csv").write_text("name,mask,modality,seed,steps\na,mask.nii.gz,mri_t1,1,1\n")
    text = re.sub(r"(localhost|\ba|\bb):8001(,b:8001)?", server.grpc, block.text)
    text = re.sub(r"\b1000\b", "2", text)
    with maisi_client.Client(server.grpc) as client:
        scope: dict[str, Any] = {"client": client, "maisi_client": maisi_client}
        exec(compile(text, block.page, "exec"), scope)
