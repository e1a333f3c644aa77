"""A step's state after whatever can happen to its cases."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.acceptance import __main__ as command
from bench.acceptance import libcuda, report, runner
from bench.acceptance.steps import AcceptanceStep, Setting

KEY = {"version": "1"}
STEP = AcceptanceStep("tried", "tried_cases", "Tried.")
# Each case writes a line, so that a test sees what has run; the environment is a file.
CASES = """
import os, time
from pathlib import Path
from bench.acceptance.steps import Case, NotDone

def cases(setting):
    folder = Path(setting.work)

    def case(name, group=""):
        def run():
            with (folder / "lines").open("a") as lines:
                lines.write(name + "\\n")
            what = (folder / name).read_text() if (folder / name).exists() else ""
            if what == "crash":
                os._exit(9)
            if what == "hang":
                time.sleep(600)
            if what == "fail":
                raise ValueError("/a/path/net.onnx gives NaN\\nand more")
            if what == "not":
                raise NotDone("no NVIDIA GPU")
            return [{"of": name, "seconds": 1.5, "process": os.getpid()}]
        return Case(name, run, group)

    return [case("a"), case("b"), case("c", "pair"), case("d", "pair")]
"""


@pytest.fixture
def setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Setting:
    (tmp_path / "tried_cases.py").write_text(CASES)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return Setting(str(tmp_path), "", "")


def ran(setting: Setting) -> list[str]:
    path = setting.folder / "lines"
    lines = path.read_text().split() if path.exists() else []
    path.unlink(missing_ok=True)
    return lines


def statuses(state: runner.State) -> dict[str, str]:
    return {name: state["cases"][name]["status"] for name in state["order"]}


def test_what_is_done_is_kept_and_the_rest_goes_on(setting: Setting) -> None:
    for name, content in (("b", "fail"), ("d", "not")):
        (setting.folder / name).write_text(content)
    state = runner.run(STEP, setting, KEY)
    assert ran(setting) == ["a", "b", "c", "d"]
    assert list(statuses(state).values()) == ["done", "failed", "done", "not done"]
    assert state["status"] == "failed"
    assert state["cases"]["b"]["reason"] == "ValueError: net.onnx gives NaN"
    processes = {state["cases"][name]["rows"][0]["process"] for name in "ac"}
    assert len(processes) == 2  # another after the failure

    (setting.folder / "b").write_text("crash")
    state = runner.run(STEP, setting, KEY)
    assert ran(setting) == ["b"]
    assert state["cases"]["b"]["reason"] == "the process ended with status 9"

    (setting.folder / "b").unlink()
    assert runner.run(STEP, setting, KEY)["status"] == "done"
    assert ran(setting) == ["b"]
    runner.run(STEP, setting, KEY)
    assert ran(setting) == []
    runner.run(STEP, setting, {"version": "2"})
    assert ran(setting) == ["a", "b", "c", "d"]
    runner.run(STEP, setting, {"version": "2"}, again=True)
    assert ran(setting) == ["a", "b", "c", "d"]


def test_a_step_stops_at_its_deadline_and_goes_on_with_whole_groups(setting: Setting) -> None:
    (setting.folder / "d").write_text("hang")
    state = runner.run(STEP, setting, KEY, seconds=8)
    assert state["status"] == "unfinished" and list(state["cases"]) == ["a", "b", "c"]
    assert ran(setting) == ["a", "b", "c", "d"]
    (setting.folder / "c").write_text("hang")
    state = runner.run(STEP, setting, KEY, seconds=8)
    assert ran(setting) == ["c"]
    assert state["cases"]["c"]["reason"] == "did not end within 8 s"
    for name in "cd":
        (setting.folder / name).unlink()
    assert runner.run(STEP, setting, KEY)["status"] == "done"
    assert ran(setting) == ["c", "d"]


def test_later_steps_run_after_one_that_failed(
    setting: Setting,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    steps = (AcceptanceStep("lost", "no_such_module", "Lost."), STEP)
    monkeypatch.setattr(command, "STEPS", steps)
    monkeypatch.setattr(report, "STEPS", steps)
    monkeypatch.setattr(runner, "WORK", setting.folder)
    monkeypatch.setattr(report, "PAGE", setting.folder / "gpu.md")
    monkeypatch.setattr(libcuda, "first", lambda: None)
    assert command.main([]) == 1
    missing, run = map(json.loads, capsys.readouterr().out.splitlines())
    assert missing["status"] == "failed" and run["status"] == "done"
    page = (setting.folder / "gpu.md").read_text()
    assert "**This has not been run on a GPU yet.**" in page
    assert "- start: the process ended with status 1" in page
    assert "| a | a | 1.5 | " in page
    assert str(setting.folder) not in page


def test_ratios_are_to_the_first_of_the_same_run_and_size() -> None:
    cases = {"upstream": {"run": "x"}, "ours": {"run": "x"}, "late": {"run": "y"}}
    seconds = {"upstream": 3.0, "ours": 1.5, "late": 1.0}
    rows = [
        {"case": name, "size": "8", "s per step": seconds[name], "s per decode": 2 * seconds[name]}
        for name in cases
    ]
    table = report.with_ratios(cases, rows)
    assert [row["ratio, step"] for row in table] == [1, 2, 1]
    assert [row["ratio, decode"] for row in table] == [1, 2, 1]
