"""`maisi studio` in a process of its own: the link, what it lacks, the end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import pytest
from maisi_client._studio import serving
from maisi_client._studio.security import Access

from tests.client.command import maisi
from tests.client.server_metrics import cancelled_requests
from tests.client.studio.browser import Browser, labels, nifti
from tests.conftest import PATIENCE, Server

# The page's own script may not be installed where tests run; the service does not need it.
SCRIPT = """
import sys
from maisi_client._cli import main
from maisi_client._studio import serving
serving.check_page = lambda: None
serving._LAST_SECONDS = 60
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_end_cancels_and_removes_everything(
    server: Server, eventually: Callable[..., None], tmp_path: Path, end: signal.Signals
) -> None:
    before = cancelled_requests(server)
    words = ["studio", "--no-browser", f"--url={server.grpc}"]
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, *words],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        link, note = (process.stdout.readline().strip() for _ in range(2))
        host, _, token = link.removeprefix("http://").partition("/?token=")
        browser = Browser(Access((host,), token))
        (folder,) = tmp_path.glob("maisi-studio-*")
        assert folder.stat().st_mode & 0o777 == 0o700
        pictures = [
            browser.uploaded("mask", (name, nifti(labels()))) for name in ("a.nii.gz", "b.nii.gz")
        ]
        browser.ask("DELETE", f"/api/pictures/{pictures[0]['id']}")
        assert [path.name for path in folder.rglob("*") if path.is_file()] == ["b.nii.gz"]
        arguments = {"size": [96, 96, 96], "steps": 1000}
        _, job = browser.post("/api/jobs", {"kind": "volume", "arguments": arguments})
        browser.wait(job["id"], lambda job: job["fraction"] > 0)
        with browser.events():
            process.send_signal(end)
            out, err = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
    assert note == "Ctrl-C ends the page and removes its pictures."
    assert (process.returncode, out, err) == (0, "", "")
    assert list(tmp_path.iterdir()) == []
    eventually(lambda: cancelled_requests(server) >= before + 1)


def test_without_niivue_it_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "STATIC", tmp_path)
    result = maisi("studio")
    assert result.returncode == 1 and result.stdout == ""
    assert result.stderr == (
        "maisi: the page needs NiiVue, which is not installed; run scripts/_niivue to get it\n"
    )


def test_without_the_extra_it_is_one_sentence() -> None:
    block = "import sys; sys.modules['starlette'] = None; from maisi_client._cli import main;"
    command = [sys.executable, "-c", f"{block} sys.exit(main(['studio']))"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert result.returncode == 1
    assert "not installed: pip install 'maisi-client[studio]'\n" in result.stderr
    assert result.stderr.count("\n") == 1


def test_the_browser_gets_the_link_that_works_once(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    monkeypatch.setattr(serving, "check_page", lambda: None)

    def ready_and_end(*arguments: object) -> None:
        *_, show = arguments
        assert callable(show)
        show("the link", "the link once")

    monkeypatch.setattr(serving, "serve", ready_and_end)
    with mock.patch.dict(os.environ, {"DISPLAY": ":0"}):
        assert maisi("studio").stdout.startswith("the link\n")
        assert maisi("studio", "--no-browser").returncode == 0
    assert opened == ["the link once"]
