"""A page for the tests of a module, in front of the real server."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.client.studio.browser import Browser, studio
from tests.client.studio.chromium import Page, chromium
from tests.client.studio.chromium import page as open_page
from tests.conftest import Server


@pytest.fixture(scope="module")
def browser(server: Server) -> Iterator[Browser]:
    """Yield a browser that opened the page of a server with mini."""
    with studio(server.grpc) as browser:
        yield browser


@pytest.fixture(scope="module")
def chrome() -> Iterator[Any]:
    """Yield Chromium, for the tests of a module."""
    with chromium() as instance:
        yield instance


@pytest.fixture
def page(chrome: Any, browser: Browser) -> Iterator[Page]:
    """Yield a tab with the page of `browser`."""
    with open_page(chrome, browser) as one:
        yield one
