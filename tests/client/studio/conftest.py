"""A page for the tests of a module, in front of the real server."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.client.studio.browser import Browser, studio
from tests.conftest import Server


@pytest.fixture(scope="module")
def browser(server: Server) -> Iterator[Browser]:
    """Yield a browser that opened the page of a server with mini."""
    with studio(server.grpc) as browser:
        yield browser
