"""The page over time: progress, cancellation, reload, two tabs, a server that goes and comes."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.client.relay import relay
from tests.client.server_metrics import cancelled_requests
from tests.client.studio.browser import Browser, labels, nifti, studio
from tests.client.studio.chromium import Page
from tests.client.studio.chromium import page as open_page
from tests.conftest import Server


def test_two_tabs_cancel_and_reload(
    chrome: Any, browser: Browser, server: Server, eventually: Callable[..., None]
) -> None:
    before = cancelled_requests(server)
    with open_page(chrome, browser) as first, open_page(chrome, browser) as second:
        first.open("mask", "brain.nii.gz", nifti(labels(3)))  # large: 1000 steps take long
        second.until("document.querySelectorAll('#gallery li').length", (1).__eq__)
        first.tab.fill("#steps", "1000")
        first.tab.click("#generate")
        for tab in (first, second):
            step = "document.querySelector('#jobs .progress')?.textContent ?? ''"
            tab.until(step, lambda text: "step" in text and "left" in text)
        second.tab.click("#jobs button")
        for tab in (first, second):
            tab.until("document.querySelector('#requests').hidden")
        eventually(lambda: cancelled_requests(server) >= before + 1)

        # What another tab makes is listed, and what is looked at stays.
        second.show(second.pictures("mask")[0])
        first.tab.fill("#steps", "1")
        first.tab.click("#generate")
        for tab in (first, second):
            tab.until("document.querySelectorAll('#gallery [data-kind=volume]').length", (1).__eq__)
        first.until(
            "document.querySelector('#gallery [data-role=first]').dataset.kind", "volume".__eq__
        )
        assert second.text("#gallery [data-role=first] strong") == "brain.nii.gz"
        listed = [(kind, second.pictures(kind)) for kind in ("mask", "volume")]
        second.tab.reload()
        second.until("document.querySelectorAll('#gallery li').length", (2).__eq__)
        second.seen()
        assert [(kind, second.pictures(kind)) for kind in ("mask", "volume")] == listed


def test_a_volume_that_is_done_before_its_request_is_answered_is_shown(
    page: Page, browser: Browser
) -> None:
    held: list[tuple[Any, Any]] = []

    def hold(route: Any) -> None:
        if route.request.method == "POST":
            held.append((route, route.fetch()))
        else:
            route.continue_()

    page.open("mask", "brain.nii.gz", nifti(labels()))
    before = len(page.pictures("volume"))
    page.tab.route("**/api/jobs", hold)
    page.tab.fill("#steps", "1")
    page.tab.click("#generate")
    volumes = "document.querySelectorAll('#gallery [data-kind=volume]').length"
    page.until(volumes, (before + 1).__eq__)
    ((route, answer),) = held
    route.fulfill(response=answer)
    kind = "document.querySelector('#gallery [data-role=first]').dataset.kind"
    page.until(kind, "volume".__eq__)
    assert page.message.endswith(" is done.")


def test_a_server_that_goes_and_comes(chrome: Any, server: Server) -> None:
    with (
        relay(server.grpc) as way,
        studio(way.address) as browser,
        open_page(chrome, browser) as page,
    ):
        dot = "document.querySelector('#server-dot').dataset.state"
        possible = "document.querySelector('#generate')?.disabled === false"
        page.until(possible)
        way.cut()
        page.until(dot, "gone".__eq__)
        page.until(possible, (False).__eq__)
        assert "no server answers at" in page.text("#server-text")
        with relay(server.grpc, int(way.address.rpartition(":")[2])):
            page.until(dot, "ready".__eq__)
            page.until(possible)


def test_a_server_that_hangs(chrome: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("maisi_client._transport.errors.LOOKUP_SECONDS", 600)
    monkeypatch.setattr("maisi_client._studio.backend._QUICK_SECONDS", 600)
    silent = socket.create_server(("127.0.0.1", 0))  # takes connections, answers no request
    connections = []

    def greet() -> None:
        with contextlib.suppress(OSError):
            while True:
                connections.append(silent.accept()[0])
                connections[-1].sendall(bytes.fromhex("000000040000000000"))  # HTTP/2's SETTINGS

    threading.Thread(target=greet, daemon=True).start()
    with silent, studio(f"127.0.0.1:{silent.getsockname()[1]}") as browser:
        browser.uploaded("mask", ("brain.nii.gz", nifti(labels())))
        with open_page(chrome, browser) as page:
            page.seen()
            assert page.text("#gallery [data-role=first] strong") == "brain.nii.gz"
            assert "has not answered yet" in page.text("#server-text")


def test_a_link_on_another_page(chrome: Any, browser: Browser) -> None:
    with open_page(chrome, browser) as page:
        context = page.tab.context
        context.clear_cookies()
        context.route(
            "http://elsewhere.example/",
            lambda route: route.fulfill(
                body=f"<a href='{browser.access.link}'>link</a>", content_type="text/html"
            ),
        )
        page.tab.goto("http://elsewhere.example/")
        page.tab.click("a")
        page.tab.wait_for_selector("#ask > *")
        assert page.tab.evaluate("location.href") == f"http://{browser.host}/"


def test_wrong_files_are_one_sentence(page: Page) -> None:
    file = {"name": "notes.nii.gz", "mimeType": "application/gzip", "buffer": b"no picture"}
    page.tab.set_input_files("#files", file)
    page.tab.click("#open-dialog button[value=mask]")
    said = page.until("document.querySelector('#message[data-kind=error]')?.textContent")
    assert "notes.nii.gz" in said and said.endswith(".") and "Traceback" not in said


@pytest.mark.slow
def test_a_large_volume_keeps_the_page_responsive(page: Page) -> None:
    wave = np.sin(np.indices((256, 256, 256), dtype=np.float32).sum(0) / 15)
    page.open("volume", "large.nii.gz", nifti((500 + 400 * wave).astype(np.int16), np.eye(4)))
    page.until("document.querySelector('#at-voxel').textContent", lambda text: "voxel" in text)
    opened = page.tab.evaluate("tasks.length")
    for share in range(30):
        page.move(0.2 + share / 100, 0.3)
    page.tab.fill("#steps", "12")
    page.tab.click("#tab-paint")
    page.tab.click("#tab-ask")
    page.frame()
    assert page.tab.evaluate(f"tasks.slice({opened})") == []  # none longer than 50 ms
