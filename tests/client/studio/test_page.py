"""The page in a real Chromium, in front of the real server."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from tests.client.relay import relay
from tests.client.studio.browser import Browser, labels, loaded, nifti, studio
from tests.conftest import Server

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed"),
]
# WebGL2 by the CPU, as test machines have no GPU.
ARGUMENTS = ["--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
PATIENCE = 60_000  # ms
FLIPPED = np.diag([-2.0, -2, 2, 1])  # LPS
OBLIQUE = np.array([[1.9, 0.6, 0, -30], [-0.6, 1.8, 0.4, -20], [0.1, -0.4, 1.9, -25], [0, 0, 0, 1]])


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(
            executable_path=CHROMIUM, args=[*ARGUMENTS, "--no-sandbox"]
        )
        yield chromium
        chromium.close()


@pytest.fixture
def opened(server: Server, chromium: Any) -> Iterator[tuple[Browser, Any]]:
    """Yield the page's server and the page; nothing may be written to its console."""
    with studio(server.grpc) as browser, chromium.new_context() as context:
        page = open_page(context, browser)
        complaints: list[str] = []
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        yield browser, page
        assert [text for text in complaints if "GPU stall" not in text] == []


def open_page(context: Any, browser: Browser) -> Any:
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    page.goto(f"http://{browser.host}/?token={browser.access.token}")
    page.wait_for_selector("#generate:enabled")
    return page


def open_file(page: Any, kind: str, name: str, content: bytes) -> None:
    """Choose a file and say what it is; return once it is shown."""
    file = {"name": name, "mimeType": "application/gzip", "buffer": content}
    page.set_input_files("#files", [file])
    page.click(f"#open-dialog button[value={kind}]")
    page.wait_for_selector(f"#gallery >> text={name.split('.')[0]}")
    page.wait_for_selector("#view:not([aria-busy]) .pane canvas")


def generate(page: Any, **fields: str) -> None:
    """Fill in the form and press Generate; return once the volume is shown."""
    for name, value in fields.items():
        field = page.locator(f"#{name}")
        tag = field.evaluate("element => element.tagName")
        field.select_option(value) if tag == "SELECT" else field.fill(value)
    before = page.locator("#gallery > li").count()
    page.wait_for_selector("#generate:enabled")
    page.click("#generate")
    page.wait_for_function("n => document.querySelectorAll('#gallery > li').length > n", arg=before)
    page.wait_for_selector("#view:not([aria-busy])")


def volumes(browser: Browser) -> list[dict[str, Any]]:
    return [one for one in browser.get("/api/pictures") if one["kind"] == "volume"]


def array(browser: Browser, picture: dict[str, Any]) -> np.ndarray[Any, Any]:
    image = loaded(browser.get(f"/api/pictures/{picture['id']}.nii.gz"))
    return np.asarray(image.dataobj)


def test_a_mask_becomes_a_volume_that_is_drawn(opened: tuple[Browser, Any]) -> None:
    browser, page = opened
    open_file(page, "mask", "brain.nii.gz", nifti(labels()))
    empty = page.locator(".pane canvas").screenshot()
    generate(page, modality="mri_t1", steps="2", seed="7")
    page.wait_for_function("() => document.querySelector('#black').value !== ''")
    page.wait_for_timeout(500)
    assert page.locator(".pane canvas").screenshot() != empty
    (volume,) = volumes(browser)
    assert volume["report"]["seed"] == 7 and volume["report"]["steps"] == 2
    assert array(browser, volume).std() > 10


@pytest.mark.parametrize("affine", [np.diag([2.0, 2, 2, 1]), FLIPPED, OBLIQUE])
def test_the_value_under_the_cursor_is_the_voxels(
    opened: tuple[Browser, Any], affine: np.ndarray[Any, Any]
) -> None:
    _, page = opened
    values = np.random.default_rng(0).integers(1, 1000, (20, 24, 16)).astype(np.int16)
    open_file(page, "volume", "noise.nii.gz", nifti(values, affine))
    page.wait_for_function("() => document.querySelector('#at-value').textContent !== ''")
    box = page.locator(".pane canvas").bounding_box()
    seen = set()
    # Each in another plane of the four.
    for x, y in ((0.25, 0.25), (0.7, 0.28), (0.27, 0.72)):
        page.mouse.click(box["x"] + x * box["width"], box["y"] + y * box["height"])
        page.wait_for_timeout(200)
        voxel = [int(n) for n in re.findall(r"\d+", page.inner_text("#at-voxel"))]
        millimetres = read_millimetres(page.inner_text("#at-mm"))
        assert int(page.inner_text("#at-value")) == values[tuple(voxel)]
        expected = np.linalg.inv(affine) @ [*millimetres, 1]
        assert np.abs(expected[:3] - voxel).max() < 0.6
        seen.add(tuple(voxel))
    assert len(seen) == 3


def read_millimetres(text: str) -> list[float]:
    """Return RAS+ coordinates of a text such as 'L 3.0  A 2.0  S 1.5 mm'."""
    pairs = re.findall(r"([RLAPSI]) (\d+\.\d)", text)
    return [(-1 if letter in "LPI" else 1) * float(number) for letter, number in pairs]


def test_a_painted_lesion_is_inserted_where_it_was_painted(opened: tuple[Browser, Any]) -> None:
    browser, page = opened
    open_file(page, "mask", "brain.nii.gz", nifti(labels()))
    generate(page, modality="mri_flair", steps="8", seed="3")
    (healthy,) = volumes(browser)
    page.click("#tab-paint")
    page.click("#lesion-150")
    page.click("#planes [data-value=axial]")
    box = page.locator(".pane canvas").bounding_box()
    page.mouse.click(box["x"] + 0.5 * box["width"], box["y"] + 0.5 * box["height"])
    page.click("#insert")
    page.wait_for_function("() => document.querySelectorAll('#gallery > li').length >= 4")
    _, ill = volumes(browser)
    (mask,) = (one for one in browser.get("/api/pictures") if one["id"] == ill["mask"])
    lesion = array(browser, mask) == 150
    assert lesion.sum() > 50
    change = array(browser, ill).astype(float) - array(browser, healthy)
    assert change[lesion].mean() > change[~lesion].mean() + 50


def test_a_request_is_cancelled_and_the_gallery_outlives_the_page(
    opened: tuple[Browser, Any],
) -> None:
    browser, page = opened
    open_file(page, "mask", "brain.nii.gz", nifti(labels()))
    page.fill("#steps", "1000")
    page.wait_for_selector("#generate:enabled")
    page.click("#generate")
    page.wait_for_selector("#jobs button")
    page.wait_for_function("() => document.querySelector('#jobs progress')?.value > 0")
    page.click("#jobs button")
    (job,) = browser.get("/api/jobs")
    browser.wait(job["id"], lambda job: job["state"] == "cancelled")
    page.reload()
    page.wait_for_selector("#gallery >> text=brain")


def test_two_tabs_show_the_same(opened: tuple[Browser, Any]) -> None:
    browser, page = opened
    second = open_page(page.context, browser)
    open_file(page, "mask", "brain.nii.gz", nifti(labels()))
    second.wait_for_selector("#gallery >> text=brain")
    generate(page, steps="1")
    second.wait_for_function("() => document.querySelectorAll('#gallery > li').length === 2")


def test_a_server_that_is_gone_is_said_and_waited_for(server: Server, chromium: Any) -> None:
    with (
        relay(server.grpc) as line,
        studio(line.address) as browser,
        chromium.new_context() as context,
    ):
        page = open_page(context, browser)
        line.cut()
        page.wait_for_selector("#server-dot[data-state=gone]")
        with relay(server.grpc, int(line.address.rpartition(":")[2])):
            page.wait_for_selector("#server-dot[data-state=ready]")
            generate(page, steps="1")
            assert len(volumes(browser)) == 1
