"""What is downloaded is what the command, the Python, the plan and DICOM say it is."""

from __future__ import annotations

import hashlib
import io
import os
import shlex
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import maisi_client
import numpy as np
import pytest
from maisi_client import Tls
from maisi_client._studio.commands import command, python
from maisi_client._studio.pictures import Call

from tests.client.command import maisi
from tests.client.studio.browser import Browser, labels, loaded, nifti
from tests.conftest import PATIENCE, ROOT, Server


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def generated(browser: Browser, kind: str, **request: Any) -> dict[str, Any]:
    job = browser.finished(kind, **request)
    assert job["state"] == "done", job
    return next(one for one in browser.get("/api/pictures") if one["id"] == job["picture"])


@pytest.fixture(scope="module")
def mask(browser: Browser) -> dict[str, Any]:
    return browser.uploaded("mask", ("brain 1.nii.gz", nifti(labels())))


@pytest.fixture(scope="module")
def volume(browser: Browser, mask: dict[str, Any]) -> dict[str, Any]:
    """Return a volume with as many arguments as possible, and a mask of its own."""
    source = browser.uploaded("volume", ("grey.nii.gz", nifti(labels().astype(np.int16) * 4)))
    arguments = {
        **{"augment": True, "organs": [22, 150], "spacing": [1.6, 2, 2], "seed": 9},
        **{"modality": "mri_flair", "steps": 2, "guidance": 1.5, "guidance_interval": [0, 0.5]},
        **{"solver": "euler", "strength": 0.75},
    }
    return generated(browser, "volume", mask=mask["id"], source=source["id"], arguments=arguments)


def test_command_and_python_make_the_same_bytes(
    browser: Browser, mask: dict[str, Any], volume: dict[str, Any], tmp_path: Path
) -> None:
    pictures = {one["id"]: one for one in browser.get("/api/pictures")}
    own_mask = pictures[volume["mask"]]
    expected = {}
    for picture in (mask, pictures[volume["source"]], volume, own_mask):
        path = browser.download(picture, tmp_path)
        expected[path] = sha256(path.read_bytes())
    made = [tmp_path / f"{one['name']}.nii.gz" for one in (volume, own_mask)]
    address = f"/api/pictures/{volume['id']}/command"
    copied = browser.get(address)
    assert copied == browser.get(f"/api/pictures/{own_mask['id']}/command")
    for words in (
        [sys.executable, "-m", "maisi_client", *shlex.split(copied["command"])[1:]],
        [sys.executable, "-c", copied["python"]],
    ):
        for path in made:
            path.unlink()
        subprocess.run(words, cwd=tmp_path, check=True, timeout=PATIENCE, env=_environment())
        assert {path: sha256(path.read_bytes()) for path in expected} == expected


def test_a_report_reproduces_where_its_files_are(
    browser: Browser,
    server: Server,
    volume: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for picture in browser.get("/api/pictures"):
        browser.download(picture, tmp_path)
    path = f"/api/pictures/{volume['id']}/report.json"
    (tmp_path / "r.json").write_bytes(browser.raw("GET", path, browser.headers)[2])
    monkeypatch.chdir(tmp_path)
    assert maisi("reproduce", "r.json", f"--url={server.grpc}").returncode == 0


def test_the_command_of_a_mask(
    browser: Browser, server: Server, mask: dict[str, Any], tmp_path: Path
) -> None:
    picture = generated(browser, "mask", mask=mask["id"], arguments={"augment": True, "seed": 3})
    copied = browser.get(f"/api/pictures/{picture['id']}/command")
    expected = browser.download(picture, tmp_path)
    browser.download(mask, tmp_path)
    digest = sha256(expected.read_bytes())
    for words in (
        [sys.executable, "-m", "maisi_client", *shlex.split(copied["command"])[1:]],
        [sys.executable, "-c", copied["python"]],
    ):
        expected.unlink()
        subprocess.run(words, cwd=tmp_path, check=True, timeout=PATIENCE, env=_environment())
        assert sha256(expected.read_bytes()) == digest
    status, sentence = browser.error("GET", f"/api/pictures/{picture['id']}/plan.csv")
    assert status == 409 and sentence == "a plan is for volumes, but this is a mask"


def test_the_plan_makes_the_same_volume(
    browser: Browser, volume: dict[str, Any], tmp_path: Path
) -> None:
    for picture in browser.get("/api/pictures"):
        browser.download(picture, tmp_path)
    plan = browser.get(f"/api/pictures/{volume['id']}/plan.csv")
    (tmp_path / "plan.csv").write_bytes(plan)
    (row,) = maisi_client.read_plan(tmp_path / "plan.csv")
    assert row.name == volume["name"]
    assert row.arguments["mask"] == tmp_path / "brain-1.nii.gz"
    assert row.arguments["source"] == tmp_path / "grey.nii.gz"
    others = {key: row.arguments[key] for key in row.arguments if key not in ("mask", "source")}
    organs = {"organs": "22,150"}
    assert others == {**volume["request"], **organs}


def test_dicom_has_the_volume_and_its_mask(
    browser: Browser, mask: dict[str, Any], tmp_path: Path
) -> None:
    pytest.importorskip("highdicom")
    arguments = {"steps": 1, "seed": 2}
    picture = generated(browser, "volume", mask=mask["id"], arguments=arguments)
    path = f"/api/pictures/{picture['id']}/dicom.zip"
    _, headers, content = browser.raw("GET", path, browser.headers)
    assert f'filename="{picture["name"]}-dicom.zip"' in headers["content-disposition"]
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    names = {*(f"{number:04}" for number in range(1, 33)), "mask", "structures"}
    assert set(files) == {f"{picture['name']}/{name}.dcm" for name in names}
    back = browser.uploaded("volume", *files.items())
    same = [loaded(browser.get(f"/api/pictures/{one['id']}.nii.gz")) for one in (back, picture)]
    assert np.array_equal(np.sort(same[0].dataobj, None), np.sort(same[1].dataobj, None))
    back_mask = browser.uploaded("mask", *files.items())
    assert back_mask["labels"] == mask["labels"]


def test_what_was_not_generated_has_no_command(browser: Browser, mask: dict[str, Any]) -> None:
    for name in ("command", "plan.csv", "dicom.zip"):
        status, sentence = browser.error("GET", f"/api/pictures/{mask['id']}/{name}")
        assert status == 409 and sentence.startswith("'brain 1.nii.gz' was not generated")


def test_text_of_commands() -> None:
    arguments = {"seed": 1, "guidance": -1.0, "augment": False, "anatomy": "liver=0.5, lung=1"}
    call = Call("generate", "a b.nii.gz", None, arguments, "out")
    tls = Tls(ca="/my ca.pem")
    assert command(call, "h:1", tls) == (
        "maisi generate 'a b.nii.gz' -o out.nii.gz --url h:1 --ca '/my ca.pem'"
        " --anatomy 'liver=0.5, lung=1' --seed 1 --guidance=-1.0"
    )
    text = python(call, "h:1", tls)
    compile(text, "copied", "exec")
    assert 'Client("h:1", tls=maisi_client.Tls(ca="/my ca.pem"))' in text
    assert 'generate("a b.nii.gz", anatomy="liver=0.5, lung=1", augment=False, seed=1' in text


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT / "client" / "src")}
