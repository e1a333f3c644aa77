"""Servers of known times are kept full: the time of a whole plan, its bound, and plan order."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from maisi_client import Client, Row, Volume, make_dataset
from maisi_client._datasets.fleet import Fleet, Release, insist
from maisi_client.torch import SyntheticPairs

from tests.client.command import NOBODY
from tests.client.relay import relay
from tests.client.timed_server import TimedServer, timed_server

COMPILE = 0.12
PATIENCE = 60  # seconds
SIZES = [(4, 4, side) for side in range(4, 12)]


def seconds(size: tuple[int, ...]) -> float:
    return 0.005 * size[2]


def plan(sizes: Sequence[tuple[int, ...]], each: int) -> list[Row]:
    """Return rows of all sizes in a random order, the same in every run."""
    rows = [size for size in sizes for _ in range(each)]
    random.Random(4).shuffle(rows)  # two rows of each of SIZES are 16 compilations in this order
    return [Row(f"row-{n:02}", {"size": size, "seed": n}) for n, size in enumerate(rows)]


@contextmanager
def servers(
    count: int, most: int = 0, **options: Any
) -> Iterator[tuple[list[TimedServer], Client]]:
    """Serve by so many servers of the same times; give a client of all.

    No request ends before each server has had `most` at a time, or 20 s are over.
    """
    fakes: list[TimedServer] = []
    deadline = time.monotonic() + 20

    def once_full(size: tuple[int, ...]) -> float:
        while any(fake.most < most for fake in fakes) and time.monotonic() < deadline:
            time.sleep(0.01)
        return seconds(size)

    with ExitStack() as stack:
        for _ in range(count):
            fakes.append(stack.enter_context(timed_server(once_full, COMPILE, **options)))
        urls = ",".join(fake.url for fake in fakes)
        yield fakes, stack.enter_context(Client(urls))


def in_plan_order(client: Client, rows: Sequence[Row]) -> None:
    """Make the rows two at a time, each at the server with the fewest requests."""
    with ThreadPoolExecutor(2) as threads:
        list(threads.map(lambda row: client.generate(**row.arguments), rows))


def test_the_end_of_a_run_does_not_wait_for_retries() -> None:
    started, ended = threading.Event(), threading.Event()

    def make(row: Row, client: Client, release: Release, stopped: threading.Event) -> Volume:
        started.set()
        return insist(row, client, 1, stopped)

    def run() -> None:
        with Client(NOBODY, retries=10**6) as client, Fleet(client, make) as fleet:
            fleet._variants = {}  # which `add` would ask for
            fleet.add(dict(enumerate(plan(SIZES, 1))))
            started.wait(PATIENCE)
        ended.set()

    threading.Thread(target=run, daemon=True).start()
    assert ended.wait(PATIENCE)


def test_a_plan_keeps_its_server_full_and_compiles_less_than_in_plan_order(tmp_path: Path) -> None:
    rows = plan(SIZES, 2)
    with servers(1) as (fakes, client):
        in_plan_order(client, rows)
        assert fakes[0].compiled > len(SIZES) + 3
    with servers(1, most=3) as (fakes, client):
        start = time.monotonic()
        outcomes = list(make_dataset(rows, tmp_path, client))
        elapsed = time.monotonic() - start
    assert fakes[0].compiled <= len(SIZES) + 3  # a late request may find its size replaced
    assert fakes[0].most == 3  # one is computed, two wait
    assert {outcome.state for outcome in outcomes} == {"done"}
    # The work is a larger share of the run's own time than of `elapsed`, which includes it.
    assert outcomes[-1].utilisation is not None
    assert 0.95 * fakes[0].worked / elapsed < outcomes[-1].utilisation <= 1
    for row in rows:
        image = nib.load(tmp_path / "images" / f"{row.name}.nii.gz")
        assert image.shape == row.arguments["size"]
        assert (np.asarray(image.dataobj) == row.arguments["seed"]).all()


def test_two_servers_share_the_work_and_a_size_stays_with_one(tmp_path: Path) -> None:
    with servers(2) as (fakes, client):
        list(make_dataset(plan(SIZES, 2), tmp_path, client))
    assert sum(fake.compiled for fake in fakes) <= len(SIZES) + 3
    assert all(fake.sizes for fake in fakes)


def test_one_size_is_shared_by_all_servers(tmp_path: Path) -> None:
    with servers(2) as (fakes, client):
        list(make_dataset(plan(SIZES[-1:], 20), tmp_path, client))
    assert all(fake.sizes for fake in fakes)


def test_the_largest_rows_come_first(tmp_path: Path) -> None:
    with servers(1) as (fakes, client):
        list(make_dataset(plan(SIZES, 1), tmp_path, client, jobs=1))
    assert fakes[0].sizes == SIZES[::-1]


@pytest.mark.parametrize(
    ("capacity", "jobs", "most"),
    [
        ({}, None, 3),
        ({"working": 2}, None, 6),
        ({"waiting": 1}, None, 2),
        ({"working": 2}, 1, 1),
    ],
)
def test_a_server_has_as_many_requests_as_it_says(
    tmp_path: Path, capacity: dict[str, int], jobs: int | None, most: int
) -> None:
    with servers(1, most, **capacity) as (fakes, client):
        list(make_dataset(plan(SIZES[:1], 12), tmp_path, client, jobs=jobs))
    assert fakes[0].most == most


def test_a_server_that_is_gone_costs_no_row(tmp_path: Path) -> None:
    with servers(1) as (fakes, _), Client(f"{NOBODY},{fakes[0].url}") as client:
        states = {one.state for one in make_dataset(plan(SIZES[:3], 2), tmp_path, client)}
    assert states == {"done"} and len(fakes[0].sizes) == 6


def test_a_server_that_comes_later_gets_its_capacity(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("maisi_client._transport.pool._REST_SECONDS", 0.05)
    with servers(2, working=2) as (fakes, _), relay(fakes[1].url) as gone:
        gone.cut()
        rows = plan(SIZES[-1:], 1000)  # more than are made
        with (
            Client(f"{fakes[0].url},{gone.address}") as client,
            closing(make_dataset(rows, tmp_path, client)) as outcomes,
        ):
            assert next(outcomes).state == "done"
            with relay(fakes[1].url, int(gone.address.rpartition(":")[2])):
                for outcome in outcomes:
                    assert outcome.state == "done"
                    if fakes[1].most >= 6:
                        break
    assert fakes[1].most == 6


def test_a_server_that_refuses_is_asked_for_fewer_at_a_time(tmp_path: Path) -> None:
    with servers(1, refuse_above=1) as (fakes, client):
        outcomes = list(make_dataset(plan(SIZES[:1], 10), tmp_path, client))
    assert {one.state for one in outcomes} == {"done"}
    assert 1 <= fakes[0].refused <= 9


def test_pairs_come_in_the_order_of_rows_and_keep_servers_full() -> None:
    masks = [nib.Nifti1Image(np.full(size, 22, np.uint8), np.diag([1, 2, 3, 1])) for size in SIZES]
    rows = [{"mask": masks[-(n % 4)], "seed": n} for n in range(16)]
    with servers(2, most=3) as (fakes, client):
        pairs = list(SyntheticPairs(rows, client.url))
    assert [pair["seed"] for pair in pairs] == list(range(16))
    for pair, row in zip(pairs, rows, strict=True):
        assert pair["image"].shape[1:] == row["mask"].shape
        assert (pair["image"] == pair["seed"]).all()
    assert [fake.most for fake in fakes] == [3, 3]
    assert sum(fake.compiled for fake in fakes) < 10  # of 16 in turn
