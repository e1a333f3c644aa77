"""Broken answers of tritonserver: each is a refusal, and the supervisor keeps watching."""

from __future__ import annotations

import json
import socketserver
import threading
from collections.abc import Callable, Iterator
from http.client import parse_headers
from pathlib import Path

import pytest

from server import health
from server.address import Address
from server.control import ControlError
from server.health import Health
from server.launch import Launch
from server.layout import Folders
from server.triton import TOKEN_VARIABLE, Triton

BUSY = b'maisi_requests_running{model="mini.stream",variant="mini"} 1\n'
METRICS = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(BUSY), BUSY)
BROKEN = {
    "a short body": b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n# TYPE",
    "a short body of an error": b'HTTP/1.1 500 Oops\r\nContent-Length: 1000\r\n\r\n{"err',
    "a chunk that breaks off": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\nmaisi",
    "a chunk without a length": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nmaisi\r\n",
    "a garbled status line": b"\x00\xff garbage\r\n\r\n",
    "a status that is no number": b"HTTP/1.1 abc OK\r\n\r\n",
    "an end within the headers": b"HTTP/1.1 200 OK\r\nContent-Le",
    "a header without end": b"HTTP/1.1 200 OK\r\nA: " + b"a" * 100_000,
    "headers without end": b"HTTP/1.1 200 OK\r\n" + b"A: a\r\n" * 1000,
    "an end without a word": b"",
}


class Answers(socketserver.ThreadingTCPServer):
    """Sends the same bytes to every connection, and closes it; counts the connections."""

    answer = b""
    count = 0

    def finish_request(self, request, client_address):
        self.count += 1
        # Closing a socket with unread data resets it, and the client may lose the answer.
        with request.makefile("rb") as stream:
            stream.readline()
            stream.read(int(parse_headers(stream).get("Content-Length", 0)))
        request.sendall(self.answer)


@pytest.fixture
def answers() -> Iterator[Answers]:
    with Answers(("127.0.0.1", 0), socketserver.BaseRequestHandler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def triton(answers: Answers, tmp_path: Path) -> Iterator[Triton]:
    """Start a program in place of tritonserver, with the ports of `answers`."""
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "tritonserver"
    program.write_text("#!/bin/sh\nexec sleep 300\n")
    program.chmod(0o755)
    port = answers.server_address[1]
    address = Address("127.0.0.1", 0, port, port, 0)
    launch = Launch(tmp_path, Folders(*[tmp_path] * 4), ["*"], address, "key", "key")
    with (tmp_path / "lock").open("w") as lock:
        process = Triton(launch, "maisi-test-", [lock.fileno()], {TOKEN_VARIABLE: "token"})
        yield process
        process.end(0)


@pytest.mark.parametrize("kind", BROKEN)
def test_an_answer_that_is_none_is_a_refusal(triton: Triton, answers: Answers, kind: str) -> None:
    answers.answer = BROKEN[kind]
    control = triton.control
    requests: list[Callable[[], object]] = [
        control.metrics,
        control.activity,
        control.states,
        control.regions,
        triton.work,
        lambda: control.config("mini"),
        lambda: control.load("mini"),
    ]
    for request in requests:
        with pytest.raises(ControlError, match=r"^no answer: \S") as caught:
            request()
        assert not caught.value.answered
    assert not control.ready()
    assert not control.unregister("maisi-client-\n é/")


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"[" * 100_000])
def test_what_should_be_json_and_is_not_is_a_refusal(
    triton: Triton, answers: Answers, body: bytes
) -> None:
    answers.answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
    control = triton.control
    for request in (control.states, control.regions, triton.work, lambda: control.config("mini")):
        with pytest.raises(ControlError, match="is not JSON, which is expected"):
            request()


def test_the_status_of_a_refusal_is_kept(triton: Triton, answers: Answers) -> None:
    body = json.dumps({"error": "Exceeds maximum queue size"}).encode()
    for code, unavailable in ((503, True), (500, False), (400, False)):
        head = b"HTTP/1.1 %d x\r\nContent-Length: %d\r\n\r\n" % (code, len(body))
        answers.answer = head + body
        with pytest.raises(ControlError, match=r"^Exceeds maximum queue size$") as caught:
            triton.control.load("mini")
        assert caught.value.answered
        assert caught.value.unavailable == unavailable


def test_health_watches_on_whatever_is_answered(
    triton: Triton,
    answers: Answers,
    eventually: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(health, "POLL", 0.05)
    answers.answer = METRICS
    watched = Health(triton, {}, 100)
    try:
        broken = [*BROKEN.values(), METRICS.replace(b"} 1\n", b"} x\n")]
        for answer in broken:
            count, answers.answer = answers.count, answer
            eventually(lambda count=count: answers.count >= count + 2)
            eventually(lambda: watched.ready() is not None)
            assert "tritonserver" in str(watched.ready())
            answers.answer = METRICS
            eventually(lambda: watched.ready() is None)
    finally:
        watched.stopping = True
