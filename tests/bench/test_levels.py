"""A level of load becomes a row, and rows a table."""

from __future__ import annotations

import pytest

from bench import levels
from bench.perf_analyzer import Endpoint, Failed, Load, RequestTimes
from bench.servers import NOTHING, Counts

MS = 1_000_000


def counts(answered: int, total: int, queue: int) -> Counts:
    """Return times in milliseconds, of all requests together."""
    return Counts(answered, 0, total * MS, queue * MS)


def test_an_ensembles_way_is_tritons_statistics() -> None:
    requests = [
        RequestTimes(100.0, (101.0,)),
        RequestTimes(100.0, (102.0,)),
        RequestTimes(101.0, (104.0,)),
    ]
    done = {
        "v": counts(3, 5700, 0),
        "v.condition": counts(3, 30, 0),
        "v.mask_encoder": counts(3, 300, 150),
        "v.sampler": counts(3, 3000, 600),
        "v.flow_masked": counts(12, 2100, 0),
        "v.decoder": counts(3, 900, 0),
        "v.vae_decoder": counts(3, 600, 0),
    }
    row = levels.summarise("v", Endpoint("v", False), Load(3, 2), requests, done, True, 2)
    assert (row.endpoint, row.transport, row.load, row.errors) == (
        "ensemble",
        "gRPC",
        "2 at once",
        0,
    )
    assert row.volumes_per_s == pytest.approx(3 / 4)
    assert (row.mean, row.p50, row.p95, row.p99) == (2000, 2000, 3000, 3000)
    assert (row.queue, row.condition, row.mask_encoder) == (200, 10, 50)
    assert (row.sampler, row.flow, row.decoder, row.vae_decoder) == (750, 700, 300, 200)
    assert row.rest == 2000 - 200 - 10 - 50 - 750 - 300


def test_a_stream_tells_its_way_itself() -> None:
    # condition, mask_encoder, sampler, two steps, decoder, done; the second waits before
    masked = (11.0, 11.5, 12.5, 13.0, 14.0, 14.5, 16.5)
    requests = [RequestTimes(10.0, masked), RequestTimes(9.0, (9.5, 10.5, *masked))]
    assert levels.stages_of_stream(requests, True, 2) == (
        1500,
        {"condition": 500, "mask_encoder": 1000, "sampler": 2000, "decoder": 2000},
    )
    plain = RequestTimes(10.0, (11.0, 11.5, 13.0, 14.0, 16.0))
    assert levels.stages_of_stream([plain], False, 1) == (
        1000,
        {"condition": 500, "sampler": 2500, "decoder": 2000},
    )
    with pytest.raises(Failed, match="did not report every stage"):
        levels.stages_of_stream([RequestTimes(10.0, (11.0, 12.0))], True, 1)


def test_a_table_has_errors_only_where_there_are_some() -> None:
    endpoint = Endpoint("v.loadtest", False, 1000)
    success = levels.summarise(
        "v", endpoint, Load(1, rate=0.5), [RequestTimes(0.0, (0.004,))], {}, True, 4
    )
    assert "| ensemble | shared memory | 0.5/s | 250 | 4.0 | 4.0 | 4.0 |" in levels.table([success])
    assert "errors" not in levels.table([success])
    failure = levels.LevelResult("stream", "gRPC", "8 at once", 8, 3)
    last = levels.table([success, failure]).splitlines()[-1]
    assert last.startswith("| stream | gRPC | 8 at once |  |") and last.endswith("|  | 3 |")


def test_counts_are_those_since_a_moment() -> None:
    assert Counts(5, 1, 70, 20).since(Counts(2, 1, 30, 20)) == Counts(3, 0, 40, 0)
    assert NOTHING.since(NOTHING) == NOTHING
