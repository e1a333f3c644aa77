"""The site of the documentation builds without a warning, and works offline."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

import maisi_client
import pytest

from tests.client.studio.chromium import chromium
from tests.conftest import ROOT

_NOT_DRAWN = "[...document.images].filter((i) => !i.naturalWidth).map((i) => i.src)"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    sphinx = [sys.executable, "-m", "sphinx", "--quiet", "--fail-on-warning", "--keep-going"]
    state = ["--doctree-dir", str(folder / "state")]
    subprocess.run([*sphinx, *state, ROOT / "docs", folder / "html"], check=True)
    return folder / "html"


def test_every_page_of_the_docs_is_in_the_site(site: Path) -> None:
    index = (site / "index.html").read_text()
    for page in (ROOT / "docs").glob("*/*.md"):
        assert f'href="{page.parent.name}/{page.stem}.html"' in index, page


def test_it_loads_nothing_from_elsewhere(site: Path) -> None:
    for page in site.rglob("*.html"):
        text = page.read_text()
        loaded = re.findall(r'<(?:script|img|iframe)[^>]* src="([^"]*)"', text)
        loaded += re.findall(r'<link[^>]* rel="stylesheet"[^>]* href="([^"]*)"', text)
        for address in loaded:
            assert (page.parent / unquote(address.partition("?")[0])).is_file(), (page, address)


def test_a_browser_asks_for_nothing_else_and_draws_every_picture(site: Path) -> None:
    requests: list[str] = []
    with chromium() as browser:
        tab = browser.new_page()
        tab.on("request", lambda request: requests.append(request.url))
        for page in sorted(site.rglob("*.html")):
            tab.goto(page.as_uri())
            assert tab.evaluate(_NOT_DRAWN) == [], page
    assert len(requests) > len(list(site.rglob("*.html")))
    folder = f"{site.as_uri()}/"
    assert [url for url in requests if not url.startswith((folder, "data:"))] == []


def test_links_between_pages_lead_somewhere(site: Path) -> None:
    texts = {page.resolve(): page.read_text() for page in site.rglob("*.html")}
    for page, text in texts.items():
        for target, anchor in re.findall(r'href="([\w./-]*(?:\.html)?)#([^"]+)"', text):
            other = texts[(page.parent / target).resolve() if target else page]
            assert f'id="{unquote(anchor)}"' in other, (page, target, anchor)


def test_the_reference_has_every_public_name(site: Path) -> None:
    page = (site / "reference" / "python.html").read_text()
    for name in set(maisi_client.__all__) - {"aio"}:
        assert f'id="maisi_client.{name}"' in page, name
