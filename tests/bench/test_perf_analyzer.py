"""The files and errors of perf_analyzer are read, and a run has a limit."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import perf_analyzer
from bench.perf_analyzer import Endpoint, Failed, Load

# Written by perf_analyzer 2.60: 4 requests to a stream, 2 at once, through shared memory, 1 step.
PROFILE = Path(__file__).with_name("profile_stream.json")


def test_the_times_of_a_stream_are_read() -> None:
    requests = perf_analyzer.read(PROFILE)
    assert [len(request.responses) for request in requests] == [6] * 4
    assert [round(request.latency, 3) for request in requests] == [0.174, 0.392, 0.397, 0.329]
    assert requests[0].start == pytest.approx(1795449000.054031, abs=1e-6)


def test_a_file_without_requests_is_refused(tmp_path: Path) -> None:
    empty = tmp_path / "profile.json"
    empty.write_text('{"experiments":[],"version":"0.0.0"}')
    with pytest.raises(Failed, match="measured no request"):
        perf_analyzer.read(empty)


def test_the_reason_is_the_servers_own_sentence() -> None:
    log = """Request concurrency: 2
Failed to retrieve results from inference request.
Thread [0] had error: steps: 0 is outside the allowed range, 1 to 1000

"""
    assert perf_analyzer.reason(log, 99) == "steps: 0 is outside the allowed range, 1 to 1000"
    assert perf_analyzer.reason("Aborted\n\n", -6).endswith("status -6 and 'Aborted'.")


def test_a_run_that_is_too_long_is_stopped(program: list[str], server, tmp_path: Path) -> None:
    data = tmp_path / "data.json"
    data.write_text(
        '{"data": [{"size": {"content": [64, 64, 64], "shape": [3]},'
        ' "steps": {"content": [4], "shape": [1]}}]}'
    )
    with pytest.raises(Failed, match=r"did not end within 0.5 s"):
        perf_analyzer.run(program, server.grpc, Endpoint("mini", False), Load(1, 1), data, 0.5)
