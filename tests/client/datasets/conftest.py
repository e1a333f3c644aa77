"""A client, and volumes that are accepted."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from maisi_client import Client

from tests.conftest import Server


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[Client]:
    with Client(server.grpc) as client:
        yield client


@pytest.fixture
def faithful(monkeypatch: pytest.MonkeyPatch) -> None:
    """Accept every volume: after one step none follows its mask."""
    generate = Client.generate

    def accepted(self: Client, *args: Any, **arguments: Any) -> Any:
        volume: Any = generate(self, *args, **arguments)
        volume.report.pop("fidelity", None)
        return volume

    monkeypatch.setattr(Client, "generate", accepted)
