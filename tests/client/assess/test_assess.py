"""The whole assessment: its report, its page, what it keeps, and what it refuses."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Callable, Sequence
from html.parser import HTMLParser
from pathlib import Path

import maisi_client
import nibabel as nib
import numpy as np
import psutil
import pytest
from maisi_client import InvalidRequest
from maisi_client._assess import record, run, use
from maisi_client._cli import main

from tests.client.assess import phantoms
from tests.client.assess.conftest import NUMBER
from tests.conftest import PATIENCE


@pytest.fixture(scope="session")
def result(
    folders: dict[str, Path], sets: dict[str, run.Side], report_folder: Path
) -> maisi_client.Assessment:
    """Assess the set with a copied patient."""
    return maisi_client.assess(
        folders["copied"],
        real=folders["real"],
        train_set=folders["train"],
        to=report_folder,
    )


def levels(result: maisi_client.Assessment) -> Sequence[str]:
    return [verdict.level for verdict in result.verdicts]


def test_each_question_has_a_verdict(result: maisi_client.Assessment) -> None:
    # The copied patient does not follow the mask that it was not warped with.
    assert levels(result) == ["good", "good", "poor", "poor", "good", "unknown"], result.verdicts
    assert "1 of 12 volumes do not follow their labels" in result.verdicts[2].sentence
    assert "case_0005 (like case_0003)" in result.verdicts[3].sentence
    assert result.skipped == {"SYNTHETIC": {}, "--real": {}, "--train-set": {}}


def test_the_report_has_every_number_settings_and_digests(
    result: maisi_client.Assessment, folders: dict[str, Path]
) -> None:
    report = json.loads((result.page.parent / "report.json").read_text())
    assert report == result.report
    assert {"realism", "diversity", "obedience", "privacy", "bias"} < report.keys()
    assert report["settings"]["spacing_mm"] == [5.3333] * 3
    assert [one["volumes"] for one in report["datasets"].values()] == [NUMBER] * 3
    case = report["volumes"]["SYNTHETIC"]["case_0002"]
    image = folders["copied"] / "images/case_0002.nii.gz"
    assert case["sha256"]["image"] == record.digest(image)
    assert len(case["label_ml"]) > 20 and case["shape"] == list(phantoms.SHAPE)


class Page(HTMLParser):
    """The links, sources and tags of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.links: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "img", "line", "circle", "polygon"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_needs_no_other_file_and_no_script(result: maisi_client.Assessment) -> None:
    text = result.page.read_text()
    page = Page(text)
    assert page.open == [] and "script" not in page.tags
    assert page.links and all(link.startswith("data:image/png;base64,") for link in page.links)
    assert not re.search(r"https?://|url\(|@import", text)
    for verdict in result.verdicts:
        assert verdict.question in text
    assert "suspicious: case_0005 and case_0003" in text
    assert page.tags.count("svg") >= 6 and "nan" not in re.sub(r"base64,[^']*", "", text)


def test_names_of_files_cannot_write_into_the_page(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    images = tmp_path / "set" / "images"
    images.mkdir(parents=True)
    for number in range(3):
        source = folders["untouched"] / f"images/case_{number:04}.nii.gz"
        shutil.copy(source, images / f"<script>{number}'\".nii.gz")
    found = maisi_client.assess(tmp_path / "set", to=tmp_path / "report")
    assert "script" not in Page(found.page.read_text()).tags
    assert levels(found) == ["unknown"] * 6
    assert "the volumes have no labels" in found.verdicts[2].sentence


def test_a_second_run_measures_no_volume_again(
    result: maisi_client.Assessment,
    folders: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("this volume was described before")

    monkeypatch.setattr(record, "_measure", refuse)
    again = maisi_client.assess(
        folders["copied"],
        real=folders["real"],
        train_set=folders["train"],
        to=result.page.parent,
    )
    assert again.report == result.report


def test_what_was_finished_before_a_failure_is_kept(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure, done = record._measure, []

    def stop(task: record.Task, digests: dict[str, str]) -> dict[str, object]:
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(task.item.name)
        return measure(task, digests)

    monkeypatch.setattr(record, "_measure", stop)
    with pytest.raises(KeyboardInterrupt):
        maisi_client.assess(folders["untouched"], to=tmp_path)
    assert len(list((tmp_path / ".volumes").glob("*.npz"))) == 3
    assert not (tmp_path / "report.html").exists()
    assert not list((tmp_path / ".volumes").glob(".*"))


def test_several_processes_measure_the_same(folders: dict[str, Path], tmp_path: Path) -> None:
    few = tmp_path / "few" / "images"
    few.mkdir(parents=True)
    for number in range(4):
        shutil.copy(folders["untouched"] / f"images/case_{number:04}.nii.gz", few)
    seen: list[maisi_client.Progress] = []
    one = maisi_client.assess(few.parent, to=tmp_path / "a")
    two = maisi_client.assess(few.parent, to=tmp_path / "b", processes=2, on_progress=seen.append)
    assert one.report == two.report
    fractions = [progress.fraction for progress in seen]
    assert fractions == sorted(fractions) and fractions[-1] == 1
    assert sum(progress.stage == "describing" for progress in seen) == 4


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
def test_no_worker_outlives_a_killed_assessment(
    folders: dict[str, Path], tmp_path: Path, eventually: Callable[..., None]
) -> None:
    words = ["assess", folders["untouched"], "--to", tmp_path, "--processes", 2]
    process = psutil.Popen([sys.executable, "-m", "maisi_client", *map(str, words)])
    workers: list[psutil.Process] = []

    def started() -> bool:
        workers[:] = process.children(recursive=True)
        return len(workers) >= 2

    try:
        eventually(started)
    finally:
        process.kill()
        process.wait()
    _, alive = psutil.wait_procs(workers, PATIENCE)
    for worker in alive:
        worker.kill()
    assert not alive


def test_few_real_volumes_are_not_called_missing(folders: dict[str, Path], tmp_path: Path) -> None:
    for part in ("set", "real"):
        (tmp_path / part).mkdir()
    for number in range(4):
        to = tmp_path / ("set" if number < 2 else "real")
        shutil.copy(folders["untouched"] / f"images/case_{number:04}.nii.gz", to)
    found = maisi_client.assess(tmp_path / "set", real=tmp_path / "real", to=tmp_path / "report")
    assert found.verdicts[0].sentence == "Too few volumes: 2; at least 10 are needed."


def test_files_that_cannot_be_read_are_left_out_and_named(
    folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "broken"
    for part in ("images", "labels"):
        (broken / part).mkdir(parents=True)
        for number in range(5):
            shutil.copy(folders["untouched"] / f"{part}/case_{number:04}.nii.gz", broken / part)
    whole = (broken / "images/case_0001.nii.gz").read_bytes()
    (broken / "images/case_0001.nii.gz").write_bytes(whole[: len(whole) // 2])
    (broken / "images/case_0002.nii.gz").write_bytes(b"no image")
    small = nib.Nifti1Image(np.ones((4, 4, 4), np.uint8), np.eye(4))
    nib.save(small, broken / "labels/case_0003.nii.gz")
    assert main(["assess", str(broken), "--to", str(tmp_path / "r"), "--processes", "1"]) == 0
    out, error = capsys.readouterr()
    warnings = error.splitlines()
    assert len(warnings) == 3 and all("maisi: warning: left out: " in one for one in warnings)
    assert "the same grid is expected" in error and "cannot be read to its end" in error
    assert out.count("\n") == 7 and "Too few volumes" in out
    text = (tmp_path / "r/report.html").read_text()
    assert "Left out" in text and "case_0002" in text


def one_volume(base: Path, name: str, values: np.ndarray) -> Path:
    path = base / name / "a.nii.gz"
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(values, np.diag([4.0, 4, 4, 1])), path)
    return path.parent


def test_bad_input_is_one_sentence(folders: dict[str, Path], tmp_path: Path) -> None:
    to = tmp_path / "report"
    (tmp_path / "empty").mkdir()
    with pytest.raises(InvalidRequest, match="which has no volume"):
        maisi_client.assess(tmp_path / "empty", to=to)
    with pytest.raises(InvalidRequest, match="does not exist"):
        maisi_client.assess(folders["untouched"], real=tmp_path / "none", to=to)
    grey = np.random.default_rng(0).integers(0, 900, (12, 12, 12)).astype(np.int16)
    alone = one_volume(tmp_path, "alone", grey)
    with pytest.raises(InvalidRequest, match="has 1 volume that can be read; 2 or more"):
        maisi_client.assess(alone, to=to)
    hounsfield = one_volume(tmp_path, "ct", grey - 1000)
    shutil.copy(hounsfield / "a.nii.gz", hounsfield / "b.nii.gz")
    with pytest.raises(InvalidRequest, match="SYNTHETIC is MR and --real is CT by their values"):
        maisi_client.assess(folders["untouched"], real=hounsfield, to=to)
    with pytest.raises(InvalidRequest, match=r"--real is '.*', the same folder as SYNTHETIC"):
        maisi_client.assess(folders["untouched"], real=folders["untouched"], to=to)
    with pytest.raises(InvalidRequest, match="seed is -1; a whole number from 0 is expected"):
        maisi_client.assess(folders["untouched"], to=to, seed=-1)
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidRequest, match=r"--to is '.*file', which is not a folder"):
        maisi_client.assess(folders["untouched"], to=tmp_path / "file")
    with pytest.raises(InvalidRequest, match=r"--features is '.*none\.pt', which cannot be read"):
        maisi_client.assess(folders["untouched"], features=tmp_path / "none.pt", to=to)
    assert not to.exists()


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_command_trains_and_reports_the_dice_of_each_set(
    folders: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in {"_STEPS": 60, "_SECONDS": 1e9, "_CLASSES": 3}.items():
        monkeypatch.setattr(use, name, value)
    words = [str(folders["untouched"]), "--real", str(folders["real"]), "--to", str(tmp_path)]
    assert main(["assess", *words, "--train", "--json", "--processes", "1"]) == 0
    verdict = json.loads(capsys.readouterr().out)["verdicts"][-1]
    report = json.loads((tmp_path / "report.json").read_text())
    trained = report["use"]
    assert (trained["steps"], trained["tested"], len(trained["real"]["labels"])) == (60, 6, 3)
    volumes = {name: trained[name]["volumes"] for name in ("synthetic", "real", "both")}
    assert volumes == {"synthetic": 12, "real": 6, "both": 12}
    for name in volumes:
        assert 0 < trained[name]["low"] <= trained[name]["mean"] <= trained[name]["high"] < 1
    # Renders of the same generator teach as much as the real ones, within the noise of few steps.
    assert trained["synthetic"]["mean"] > 0.6 * trained["real"]["mean"]
    assert verdict["level"] in ("good", "check") and verdict == report["verdicts"][-1]
    page = (tmp_path / "report.html").read_text()
    assert verdict["sentence"] in page and "<h2>Training</h2>" in page
    assert "Each network had 60 of 60 steps" in page


def test_real_volumes_of_the_training_set_are_not_held_out(
    folders: dict[str, Path], sets: dict[str, run.Side]
) -> None:
    train, real = sets["train"], sets["real"]
    assert run.held_out(real, train) is not None
    assert run.held_out(train, train) is None and run.held_out(None, train) is None


def test_what_is_missing_is_named_with_its_extra(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for name in [name for name in sys.modules if name.startswith("maisi_client._assess")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["assess", str(tmp_path), "--to", str(tmp_path)]) == 1
    assert "needs Pillow, which is not installed: pip install" in capsys.readouterr().err
