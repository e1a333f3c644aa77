"""The logic of a session, without a server: when to send, how long to wait, when to retry."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from maisi_client import MaisiError, ServerUnavailable, Timeout
from maisi_client._request import Request, prepare
from maisi_client._transport.operations import (
    Emit,
    Lookup,
    Message,
    OpenStream,
    Operations,
    Receive,
    Sleep,
)
from maisi_client._transport.pool import Pool
from maisi_client._transport.session import Session
from tritonclient.utils import InferenceServerException

FULL = "[overloaded retry_after=9] overloaded: 9 requests are here; try again in 9 s"


def request() -> Request:
    return prepare(None, {"variant": "mini", "size": [3, 4, 5], "seed": 7})


def session(urls: str = "a:1", **limits: Any) -> Session:
    limits = {"timeout": 100.0, "idle_timeout": 5.0, "retries": 1} | limits
    return Session(Pool(urls, lambda url: url), urls, **limits)


def test_clients_with_one_request_begin_with_any_server() -> None:
    first = set()
    for _ in range(64):  # all of them the same: once in 2^63
        with Pool("a:1,b:1", lambda url: url).server() as server:
            first.add(server.connection)
    assert first == {"a:1", "b:1"}


@pytest.fixture(autouse=True)
def advance(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Stop the clock of the session; `advance(seconds)` moves it."""
    now = 1000.0

    def move(seconds: float) -> None:
        nonlocal now
        now += seconds

    clock = SimpleNamespace(monotonic=lambda: now)
    for module in ("errors", "pool", "session"):
        monkeypatch.setattr(f"maisi_client._transport.{module}.time", clock)
    return move


def refused(sentence: str) -> Message:
    return Message(None, InferenceServerException(sentence), False)


def part(text: str, final: bool = False) -> Message:
    return Message(SimpleNamespace(text=text), None, final)


def perform(operations: Operations[None], *outcomes: Any) -> tuple[list[Any], MaisiError | None]:
    """Send each outcome to the next wait; return all operations, and the error at the end."""
    waiting, performed = list(outcomes), []
    try:
        operation = next(operations)
        while True:
            performed.append(operation)
            if isinstance(operation, (OpenStream, Emit, Sleep)):
                operation = operations.send(None)
            elif isinstance(outcome := waiting.pop(0), BaseException):
                operation = operations.throw(outcome)
            else:
                operation = operations.send(outcome)
    except StopIteration:
        return performed, None
    except MaisiError as error:
        return performed, error


def waits(operations: list[Any]) -> list[float]:
    return [operation.seconds for operation in operations if isinstance(operation, Receive)]


def test_the_first_message_may_take_all_the_time_and_the_next_only_some() -> None:
    operations, error = perform(session().results(request()), part("a"), part("b", final=True))
    assert error is None
    assert [operation.event.text for operation in operations if isinstance(operation, Emit)] == [
        "a",
        "b",
    ]
    assert waits(operations) == [100, 5]


def test_silence_within_and_before_the_answer_are_two_errors() -> None:
    _, within = perform(session().results(request()), part("a"), None)
    _, before = perform(session().results(request()), None)
    for error, sentence in ((within, "sent nothing for 5 s"), (before, "did not finish")):
        assert isinstance(error, Timeout) and sentence in str(error)


@pytest.mark.parametrize(
    ("limits", "seconds", "ends"),
    [
        ({"timeout": 0.5}, 0.6, []),  # no time is left
        ({}, 0.0, [None]),
        ({"idle_timeout": 200.0}, 0.0, [None]),
        ({}, 0.0, [Message(None, InferenceServerException("late", "DEADLINE_EXCEEDED"), False)]),
        ({}, 0.0, [refused("Socket closed")]),
        ({}, 0.0, [EOFError()]),
    ],
)
def test_a_finished_volume_is_kept_when_the_time_is_over(
    monkeypatch: pytest.MonkeyPatch,
    advance: Callable[[float], None],
    limits: dict[str, float],
    seconds: float,
    ends: list[Any],
) -> None:
    monkeypatch.setattr("maisi_client._answer.progress", lambda result: advance(seconds))
    operations, error = perform(session(**limits).volume(request()), part("a"), "volume", *ends)
    assert error is None and operations[-1] == Emit("volume")


def test_the_same_request_is_sent_again_when_the_server_says_so() -> None:
    operations, error = perform(session().results(request()), refused(FULL), part("a", final=True))
    assert error is None
    first, second = (operation for operation in operations if isinstance(operation, OpenStream))
    assert first.inputs["seed"] == second.inputs["seed"] == 7
    (pause,) = (operation.seconds for operation in operations if isinstance(operation, Sleep))
    assert pause >= 9


def test_another_server_is_asked_at_once_and_none_beyond_the_time() -> None:
    two_servers = session("a:1,b:1", retries=0).results(request())
    operations, error = perform(two_servers, refused(FULL), part("a", final=True))
    assert error is None
    assert sorted(
        operation.server.url for operation in operations if isinstance(operation, OpenStream)
    ) == ["a:1", "b:1"]
    assert [operation.seconds for operation in operations if isinstance(operation, Sleep)] == [0]
    operations, error = perform(session(timeout=5).results(request()), refused(FULL))
    assert isinstance(error, ServerUnavailable) and error.retry_after == 9
    assert not any(isinstance(operation, Sleep) for operation in operations)


def test_an_end_without_a_final_message_is_a_lost_connection() -> None:
    _, error = perform(session(retries=0).results(request()), part("a"), EOFError())
    assert isinstance(error, ServerUnavailable) and "it ended" in str(error)


def test_a_lookup_has_less_time_than_the_request() -> None:
    operations, error = perform(
        session(retries=0).variants(), InferenceServerException("late", "DEADLINE_EXCEEDED")
    )
    (lookup,) = operations
    assert isinstance(lookup, Lookup) and lookup.seconds == 30
    assert isinstance(error, ServerUnavailable) and "does not answer" in str(error)
