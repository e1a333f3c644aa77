"""The site of the documentation builds without a warning, and works offline."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

import maisi_client
import pytest

from tests.conftest import ROOT


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    sphinx = [sys.executable, "-m", "sphinx", "--quiet", "--fail-on-warning", "--keep-going"]
    state = ["--doctree-dir", str(folder / "state")]
    subprocess.run([*sphinx, *state, ROOT / "docs", folder / "html"], check=True)
    return folder / "html"


def test_every_page_of_the_docs_is_in_the_site(site: Path) -> None:
    index = (site / "index.html").read_text()
    for page in (ROOT / "docs").glob("*.md"):
        assert page.stem == "index" or f'href="{page.stem}.html"' in index, page


def test_it_loads_nothing_from_elsewhere(site: Path) -> None:
    for page in site.glob("*.html"):
        text = page.read_text()
        loaded = re.findall(r'<(?:script|img|iframe)[^>]* src="([^"]*)"', text)
        loaded += re.findall(r'<link[^>]* rel="stylesheet"[^>]* href="([^"]*)"', text)
        for address in loaded:
            assert (site / unquote(address.partition("?")[0])).is_file(), (page.name, address)


def test_links_between_pages_lead_somewhere(site: Path) -> None:
    texts = {page.name: page.read_text() for page in site.glob("*.html")}
    for name, text in texts.items():
        for target, anchor in re.findall(r'href="([\w-]*(?:\.html)?)#([^"]+)"', text):
            page = texts[target or name]
            assert f'id="{unquote(anchor)}"' in page, (name, target, anchor)


def test_the_reference_has_every_public_name(site: Path) -> None:
    page = (site / "python.html").read_text()
    for name in set(maisi_client.__all__) - {"aio"}:
        assert f'id="maisi_client.{name}"' in page, name
