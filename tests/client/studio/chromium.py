"""Chromium for the tests of the page, without a screen or a graphics card."""

from __future__ import annotations

import contextlib
import io
import shutil
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tests.client.studio.browser import Browser
from tests.conftest import PATIENCE

_SOFTWARE = ["--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
# What a page must not do: break its policy, move what is there, keep the browser busy.
_WATCH = """
window.broken = []; window.shifts = []; window.tasks = [];
addEventListener('securitypolicyviolation', (event) => broken.push(event.violatedDirective));
const watch = (type, note) => new PerformanceObserver((list) => list.getEntries().forEach(note))
  .observe({ type, buffered: true });
watch('layout-shift', (entry) => entry.hadRecentInput || shifts.push(entry.value));
watch('longtask', (entry) => tasks.push(entry.duration));
"""


@contextlib.contextmanager
def chromium() -> Iterator[Any]:
    """Yield a browser of Playwright; skip where there is none."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    program = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), None)
    if program is None:
        pytest.skip("there is no chromium")
    with api.sync_playwright() as playwright:
        # As root, and in containers, its sandbox cannot be made; the page is our own.
        instance = playwright.chromium.launch(
            executable_path=program, args=[*_SOFTWARE, "--no-sandbox"]
        )
        try:
            yield instance
        finally:
            instance.close()


class Page:
    """A tab that opened the link of `browser`; `tab` is Playwright's, `errors` its own."""

    def __init__(self, tab: Any, browser: Browser) -> None:
        self.tab, self.errors = tab, list[str]()
        tab.set_default_timeout(1000 * PATIENCE)
        tab.on("pageerror", lambda error: self.errors.append(str(error)))
        tab.add_init_script(_WATCH)
        tab.goto(browser.access.link)
        tab.wait_for_selector("#ask > *")

    def until(self, script: str, holds: Callable[[Any], object] = bool) -> Any:
        """Return the value of JavaScript once the condition holds.

        Playwright's own wait evaluates text in the page, which the page's policy forbids.
        """
        deadline = time.monotonic() + PATIENCE
        while not holds(value := self.tab.evaluate(script)):
            assert time.monotonic() < deadline, (script, value, self.message)
            time.sleep(0.05)
        return value

    @property
    def message(self) -> str:
        """The line at the bottom."""
        return str(self.tab.inner_text("#message"))

    def open(self, kind: str, name: str, content: bytes) -> None:
        """Open a file as a person does, and wait until it is seen."""
        file = {"name": name, "mimeType": "application/gzip", "buffer": content}
        self.tab.set_input_files("#files", file)
        self.tab.click(f"#open-dialog button[value={kind}]")
        self.until("document.querySelector('#message').textContent", f"{name} is open.".__eq__)
        self.seen()

    def show(self, id_: str) -> None:
        """Show a picture of the session, and wait until it is seen."""
        self.tab.click(f"#gallery [data-id='{id_}'] .open")
        self.seen()

    def seen(self) -> None:
        """Wait until the view shows what was chosen."""
        self.until("!!document.querySelector('.pane canvas, #grid canvas')")
        self.until("!document.querySelector('#view').hasAttribute('aria-busy')")

    def pictures(self, kind: str) -> list[str]:
        """Return the ids of the session list, the latest first."""
        script = (
            f"[...document.querySelectorAll('#gallery [data-kind={kind}]')].map(e => e.dataset.id)"
        )
        return list(self.tab.evaluate(script))

    def pixels(self) -> NDArray[np.uint8]:
        """Return the main view as `[rows, columns, 3]`."""
        png = self.tab.locator(".pane canvas").first.screenshot()
        return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))

    def move(self, across: float, down: float) -> tuple[int, int]:
        """Put the mouse at a share of the main view; return the pixel of it."""
        box = self.tab.locator(".pane canvas").first.bounding_box()
        x, y = int(across * box["width"]), int(down * box["height"])
        self.tab.mouse.move(box["x"] + x + 3, box["y"] + y)
        self.tab.mouse.move(box["x"] + x, box["y"] + y)
        self.frame()
        return x, y

    def click(self, across: float, down: float) -> None:
        """Click at a share of the main view."""
        self.move(across, down)
        self.tab.mouse.down()
        self.tab.mouse.up()
        self.frame()

    def frame(self) -> None:
        """Wait until what was asked for is drawn."""
        self.tab.evaluate("new Promise((done) => requestAnimationFrame(() => setTimeout(done)))")

    def text(self, selector: str) -> str:
        """Return the text of an element."""
        return str(self.tab.text_content(selector))


@contextlib.contextmanager
def page(instance: Any, browser: Browser) -> Iterator[Page]:
    """Yield a tab of its own; at its end it has broken no policy and raised no error."""
    context = instance.new_context(viewport={"width": 1280, "height": 800})
    try:
        one = Page(context.new_page(), browser)
        yield one
        assert one.errors == [] and one.tab.evaluate("broken") == []
    finally:
        context.close()
