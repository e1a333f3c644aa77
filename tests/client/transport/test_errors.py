"""The format of the server's errors, as the server writes and the client reads it."""

from __future__ import annotations

import re

import maisi_client
import pytest
from maisi_client import InvalidRequest, MaisiError, ServerError, ServerUnavailable, Timeout
from maisi_client._errors import is_transient
from maisi_client._transport.errors import explain
from tritonclient.utils import InferenceServerException

from backends.maisi import errors
from tests.conftest import ROOT

SENTENCE = "seed: [9] is what 'a]b' says; try again in 7 s"
# A kind of the server -> what the client raises, and whether it sends the request again.
RAISED = {
    "invalid_request": (InvalidRequest, False),
    "overloaded": (ServerUnavailable, True),
    "out_of_memory": (ServerUnavailable, True),
    "stopping": (ServerUnavailable, True),
    "timeout": (Timeout, False),
    "cancelled": (ServerError, False),
    "engine_failed": (ServerError, True),
    "internal": (ServerError, True),
}


def all_classes(base: type) -> list[type]:
    return [base, *(one for child in base.__subclasses__() for one in all_classes(child))]


def parse(message: str, status: str | None = None) -> MaisiError:
    return explain(InferenceServerException(message, status), "here:1")


@pytest.mark.parametrize("status", [None, "StatusCode.UNAVAILABLE"])
@pytest.mark.parametrize("retry_after", [None, 5])
def test_the_client_reads_what_the_server_writes(
    status: str | None, retry_after: int | None
) -> None:
    kinds = set()
    for server_class in all_classes(errors.RequestError):
        cancelled = server_class is errors.Cancelled
        server_error = errors.Cancelled() if cancelled else server_class(SENTENCE, retry_after)
        error = parse(errors.render(server_error), status)
        expected, again = RAISED[server_error.kind]
        assert type(error) is expected and error.kind == server_error.kind
        assert str(error).endswith(str(server_error)) and f"[{server_error.kind}" not in str(error)
        assert is_transient(error) is again
        if expected is ServerUnavailable:
            assert error.retry_after == retry_after
        kinds.add(server_error.kind)
    assert kinds == set(RAISED)


def test_a_server_that_hangs_is_not_one_of_another_protocol() -> None:
    error = parse(
        "connections to all backends failing; last error: UNKNOWN: ipv4:127.0.0.1:8001: connection"
        " attempt timed out before receiving SETTINGS frame",
        "StatusCode.UNAVAILABLE",
    )
    assert type(error) is ServerUnavailable
    assert str(error) == "here:1 accepts connections, but does not answer"


def test_a_kind_of_a_later_server_is_no_reason_to_ask_again() -> None:
    error = parse("[sleepy retry_after=3] it is night")
    assert (type(error), error.kind, str(error)) == (ServerError, "unexpected", "it is night")


@pytest.mark.parametrize(
    "message",
    [
        "overloaded: 9 requests are here; try again in 5 s",
        "mask holds [overloaded] 9",
        "[request id: 7] steps",
        "[overloaded retry_after=-1] x",
        f"[overloaded retry_after={10**12}] x",
        "[overloaded]",
    ],
)
def test_only_the_form_at_the_beginning_counts(message: str) -> None:
    error = parse(message)
    assert (type(error), error.kind, str(error)) == (ServerError, "unexpected", message)


def test_every_kind_is_documented() -> None:
    page = (ROOT / "docs/reference/errors.md").read_text()
    table = re.findall(r"^\| `([a-z_]+)` \|", page, re.MULTILINE)
    public = [getattr(maisi_client, name) for name in maisi_client.__all__]
    classes = [one for one in public if isinstance(one, type) and issubclass(one, MaisiError)]
    assert set(table) == {*RAISED, *(one.kind for one in classes)}
    assert len(table) == len(set(table))
