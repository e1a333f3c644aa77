"""What a server has counted."""

from __future__ import annotations

from tests.conftest import Server
from tests.server.metrics import numbers


def cancelled_requests(server: Server) -> float:
    """Return how many requests for mini were cancelled since the server started."""
    return numbers(server.metrics).get(
        'maisi_requests_total{outcome="cancelled",variant="mini"}', 0
    )
