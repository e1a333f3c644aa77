"""When a request is sent, how long it waits and when it is sent again, without any server."""

from __future__ import annotations

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


def refused(sentence: str) -> Message:
    return Message(None, InferenceServerException(sentence), False)


def part(text: str, final: bool = False) -> Message:
    return Message(SimpleNamespace(text=text), None, final)


def done(steps: Operations[None], *outcomes: Any) -> tuple[list[Any], MaisiError | None]:
    """Send each outcome to the next wait; return all steps, and the error at the end."""
    left, seen = list(outcomes), []
    try:
        step = next(steps)
        while True:
            seen.append(step)
            if isinstance(step, (OpenStream, Emit, Sleep)):
                step = steps.send(None)
            elif isinstance(outcome := left.pop(0), BaseException):
                step = steps.throw(outcome)
            else:
                step = steps.send(outcome)
    except StopIteration:
        return seen, None
    except MaisiError as error:
        return seen, error


def waits(steps: list[Any]) -> list[float]:
    return [step.seconds for step in steps if isinstance(step, Receive)]


def test_the_first_message_may_take_all_the_time_and_the_next_only_some() -> None:
    steps, error = done(session().results(request()), part("a"), part("b", final=True))
    assert error is None
    assert [step.event.text for step in steps if isinstance(step, Emit)] == ["a", "b"]
    assert waits(steps) == [pytest.approx(100, abs=2), 5]


def test_silence_within_and_before_the_answer_are_two_errors() -> None:
    _, within = done(session().results(request()), part("a"), None)
    _, before = done(session().results(request()), None)
    for error, sentence in ((within, "fell silent for 5 s"), (before, "did not finish")):
        assert isinstance(error, Timeout) and sentence in str(error)


def test_the_same_request_is_sent_again_when_the_server_says_so() -> None:
    steps, error = done(session().results(request()), refused(FULL), part("a", final=True))
    assert error is None
    first, second = (step for step in steps if isinstance(step, OpenStream))
    assert first.inputs["seed"] == second.inputs["seed"] == 7
    (pause,) = (step.seconds for step in steps if isinstance(step, Sleep))
    assert pause >= 9


def test_another_server_is_asked_at_once_and_none_beyond_the_time() -> None:
    two = session("a:1,b:1", retries=0).results(request())
    steps, error = done(two, refused(FULL), part("a", final=True))
    assert error is None
    assert [step.server.url for step in steps if isinstance(step, OpenStream)] == ["a:1", "b:1"]
    assert [step.seconds for step in steps if isinstance(step, Sleep)] == [0]
    steps, error = done(session(timeout=5).results(request()), refused(FULL))
    assert isinstance(error, ServerUnavailable) and error.retry_after == 9
    assert not any(isinstance(step, Sleep) for step in steps)


def test_an_end_that_nobody_announced_is_a_lost_connection() -> None:
    _, error = done(session(retries=0).results(request()), part("a"), EOFError())
    assert isinstance(error, ServerUnavailable) and "it just ended" in str(error)


def test_a_lookup_has_less_time_than_the_request() -> None:
    steps, error = done(
        session(retries=0).variants(), InferenceServerException("late", "DEADLINE_EXCEEDED")
    )
    (lookup,) = steps
    assert isinstance(lookup, Lookup) and lookup.seconds == 30
    assert isinstance(error, ServerUnavailable) and "does not answer" in str(error)
