"""With the trained weights: a contrast is changed, a lesion is drawn, a mask is followed."""

from __future__ import annotations

from typing import Any

import pytest
from maisi_client import Client

from bench import modes
from bench.modes import Head


@pytest.fixture(scope="module")
def client(server: Any) -> Any:
    with Client(server.grpc, timeout=240) as client:
        yield client


@pytest.fixture(scope="module")
def heads() -> list[Head]:
    return [modes.head(path) for path in modes.MASKS]


@pytest.mark.slow
def test_t1_becomes_t2_and_keeps_its_anatomy(
    client: Client, heads: list[Head], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(modes, "STRENGTHS", (0.8,))
    masked, _ = modes.translation(client, heads[:1])
    assert masked["edges"] > 0.6
    assert masked["as_t2"] > masked["as_t1"] + 0.2


@pytest.mark.slow
def test_a_lesion_is_drawn_where_it_was_asked_and_nowhere_else(
    client: Client, heads: list[Head], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(modes, "STRENGTHS", (0.6,))
    (row,) = modes.insertion(client, heads[:1])
    assert row["lesion"] > 100
    assert row["elsewhere"] < row["noise"]


@pytest.mark.slow
def test_a_report_tells_volumes_that_follow_from_those_that_do_not(
    client: Client, heads: list[Head], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(modes, "MODALITIES", ("mri_t1",))
    (row,) = modes.fidelity(client, heads)
    assert min(row["own"]) >= modes.FAITHFUL > max(row["other"] + row["without"])
