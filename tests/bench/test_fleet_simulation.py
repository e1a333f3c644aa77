"""The simulator against closed forms, and what failures, limits and sizes do to a queue."""

from __future__ import annotations

import math

import numpy as np
import pytest

from bench.fleet.simulation import Fleet, Kind, queue_limit, replicas, simulate

EXPONENTIAL = Kind("any", 1.0, -np.log1p(-(np.arange(2000) + 0.5) / 2000))  # of mean 1
FIXED = Kind("any", 1.0, [1.0])


def erlang_c(servers: int, load: float) -> float:
    """Return the probability to wait in M/M/c with `load` = arrivals times service time.

    A. K. Erlang, 1917; L. Kleinrock, Queueing Systems I, 1975, equation 3.40.
    """
    last = load**servers / math.factorial(servers) * servers / (servers - load)
    return last / (sum(load**n / math.factorial(n) for n in range(servers)) + last)


@pytest.mark.parametrize(("servers", "load"), [(1, 0.6), (3, 2.1)])
def test_m_m_c_waits_as_erlang_says(servers: int, load: float) -> None:
    result = simulate([EXPONENTIAL], Fleet(1, devices=servers), load, 12_000, seed=1)
    wait = erlang_c(servers, load) / (servers - load)  # of mean service time 1
    assert np.mean(result.seconds) - 1 == pytest.approx(wait, rel=0.15)
    assert result.utilisation == pytest.approx(load / servers, rel=0.03)


def test_m_d_1_waits_half_as_long() -> None:
    result = simulate([FIXED], Fleet(1), 0.7, 8000, seed=1)
    wait = 0.7 / (2 * (1 - 0.7))  # Pollaczek and Khinchine, for a constant service time
    assert np.mean(result.seconds) - 1 == pytest.approx(wait, rel=0.1)


def test_the_fewest_requests_are_a_better_choice_than_any() -> None:
    fewest = simulate([EXPONENTIAL], Fleet(10), 7.0, 2000)
    scattered = simulate([EXPONENTIAL], Fleet(10, scattered=True), 7.0, 2000)
    assert fewest.percentile(95) < scattered.percentile(95) / 1.5


def test_a_short_request_overtakes_and_a_long_one_does_not_starve() -> None:
    kinds = [Kind("short", 0.9, [0.1]), Kind("long", 0.1, [5.0])]
    result = simulate(kinds, Fleet(1), 1.0, 1500)
    assert result.percentile(50) < 1 and max(result.seconds) < 100


def test_a_full_queue_refuses() -> None:
    free = simulate([FIXED], Fleet(2), 1.5, 2000)
    limit = queue_limit(free)
    assert sum(waited >= limit for waited in free.queue) <= len(free.queue) / 20
    assert simulate([FIXED], Fleet(2, waiting=limit), 1.5, 2000).refused == 0
    full = simulate([FIXED], Fleet(2, waiting=1), 3.0, 2000)
    assert full.refused > 250 and full.percentile(99) == math.inf
    assert max(full.seconds) < 10  # each server has two requests at most, and retries end


def test_failures_cost_time_and_no_request() -> None:
    healthy = simulate([FIXED], Fleet(3), 2.0, 2000)
    failing = simulate([FIXED], Fleet(3, mtbf=200, repair=20), 2.0, 2000)
    assert len(failing.seconds) == len(healthy.seconds)
    assert failing.percentile(95) > healthy.percentile(95)
    assert failing.utilisation > healthy.utilisation  # what was lost is made again


def test_a_size_is_compiled_again_after_two_others() -> None:
    def kinds(count: int) -> list[Kind]:
        return [Kind(str(n), 1.0, [0.1], compile_seconds=1.0) for n in range(count)]

    few, many = (simulate(kinds(count), Fleet(1), 0.2, 400) for count in (2, 3))
    assert few.percentile(50) < 0.2 and many.percentile(80) > 1


def test_replicas_are_the_fewest_that_keep_the_p95() -> None:
    servers, result = replicas([FIXED], Fleet(1), 5.0, 2.0, 1000)
    fewer = simulate([FIXED], Fleet(servers - 1), 5.0, 1000)
    assert servers > 5 and result.percentile(95) <= 2 < fewer.percentile(95)
    with pytest.raises(ValueError, match=r"p95: 0\.5 s is too short"):
        replicas([FIXED], Fleet(1), 5.0, 0.5, 1000)
