"""The order of rows in simulated time: how long servers take for a plan, and the least they can."""

from __future__ import annotations

import heapq
import random
from collections import deque
from dataclasses import dataclass, field

import pytest
from maisi_client import Row
from maisi_client._datasets.costs import Cost
from maisi_client._datasets.schedule import Schedule, Task
from maisi_client._variant import Capacity

IN_FLIGHT = 3


@dataclass
class Machine:
    """A server that works on one row at a time, the first one first."""

    speed: float = 1.0
    waiting: deque[Task] = field(default_factory=deque)
    kept: deque[object] = field(default_factory=lambda: deque(maxlen=2))
    compiled: int = 0

    def start(self, compile_seconds: float) -> float:
        """Return the seconds of the first row that waits."""
        shape, seconds = self.waiting[0].cost.shape, self.waiting[0].cost.work / self.speed
        if shape in self.kept:
            self.kept.remove(shape)
        else:
            self.compiled += 1
            seconds += compile_seconds
        self.kept.append(shape)
        return seconds


def run(
    tasks: list[Task], machines: list[Machine], compile_seconds: float, in_order: bool = False
) -> float:
    """Return the time after which all rows are made."""
    now = 0.0
    schedule = Schedule(len(machines), in_order, clock=lambda: now)
    for number in range(len(machines)):
        schedule.set_capacity(number, Capacity(1, 8))
    for task in tasks:
        schedule.add(task)
    ends: list[tuple[float, int, float]] = []
    count = range(len(machines))
    while True:
        free = [number for number in count if schedule.running(number) < IN_FLIGHT]
        while (choice := schedule.next(free, count)) is not None:
            task, number = choice
            machines[number].waiting.append(task)
            if len(machines[number].waiting) == 1:
                seconds = machines[number].start(compile_seconds)
                heapq.heappush(ends, (now + seconds, number, seconds))
            free = [number for number in count if schedule.running(number) < IN_FLIGHT]
        if not ends:
            return now
        now, number, seconds = heapq.heappop(ends)
        schedule.end(number, machines[number].waiting.popleft(), seconds)
        if machines[number].waiting:
            seconds = machines[number].start(compile_seconds)
            heapq.heappush(ends, (now + seconds, number, seconds))


def plan(sizes: int, each: int, seed: int = 0) -> list[Task]:
    """Return rows of sizes that take 1 to `sizes` seconds, in a random order."""
    all_sizes = [size for size in range(1, sizes + 1) for _ in range(each)]
    random.Random(seed).shuffle(all_sizes)
    return [Task(n, Row(str(n), {}), Cost(size, float(size))) for n, size in enumerate(all_sizes)]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("machines", "most"), [(1, 1.0), (3, 1.12), (8, 1.25)])
def test_servers_end_together(machines: int, most: float, seed: int) -> None:
    tasks, compile_seconds = plan(20, 3, seed), 8.0
    work = sum(task.cost.work for task in tasks)
    least = (work + 20 * compile_seconds) / machines
    fleet = [Machine() for _ in range(machines)]
    assert least <= run(tasks, fleet, compile_seconds) <= most * least
    assert sum(one.compiled for one in fleet) <= 20 + machines


@pytest.mark.parametrize("machines", [1, 3])
def test_the_plan_order_takes_much_longer(machines: int) -> None:
    tasks = plan(20, 3)
    alternating = [
        Task(task.number, task.row, Cost((task.cost.shape, task.number), task.cost.work))
        for task in tasks
    ]  # no size is known to return
    before = run(alternating, [Machine() for _ in range(machines)], 8.0, in_order=True)
    assert run(tasks, [Machine() for _ in range(machines)], 8.0) < before / 1.4


def test_without_compilations_the_largest_come_first() -> None:
    tasks = plan(30, 1)
    work = sum(task.cost.work for task in tasks)
    assert run(tasks, [Machine() for _ in range(4)], 0.0) <= work / 4 * 1.1


def test_a_slow_server_gets_less() -> None:
    fleet = [Machine(speed=1.0), Machine(speed=0.2)]
    tasks = plan(10, 10)
    work = sum(task.cost.work for task in tasks)
    assert run(tasks, fleet, 2.0) <= 1.25 * (work + 10 * 2.0) / 1.2


def test_a_single_size_is_shared() -> None:
    tasks = [Task(n, Row(str(n), {}), Cost("one", 2.0)) for n in range(60)]
    assert run(tasks, [Machine() for _ in range(3)], 8.0) <= 60 * 2 / 3 + 8 + 2 * 2


def test_rows_of_unknown_cost_are_made_too() -> None:
    tasks = [Task(n, Row(str(n), {}), Cost(("unknown", ""), 0.0)) for n in range(10)]
    fleet = [Machine(), Machine()]
    run(tasks, fleet, 1.0)
    assert all(one.compiled for one in fleet) and not any(one.waiting for one in fleet)
