"""The queue: which request works, which waits and which is refused."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from backends.maisi import gate as gate_module
from backends.maisi.errors import Overloaded, RequestError, TimeUp
from backends.maisi.gate import Gate, State, Ticket

PATIENCE = 60  # seconds for what other threads do soon
WAIT_STATES = State.WAITING, State.PREPARED, State.PAUSED


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Replace the clock of the queue by one that stands still until a test changes its `now`."""
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(gate_module, "time", SimpleNamespace(monotonic=lambda: clock.now))
    return clock


def keep_waiting() -> None:
    """Do nothing: the caller still waits."""


def never_waits() -> None:
    """Fail: the request should not wait."""
    pytest.fail("the request waits")


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


class Request(threading.Thread):
    """A request that works in steps; each step waits until the test releases it."""

    def __init__(
        self,
        requests: Requests,
        name: str,
        expected: float | None,
        steps: int,
        time_limit: float,
        while_waiting: Callable[[], None],
    ) -> None:
        super().__init__(name=name, daemon=True)
        self.requests, self.expected, self.steps = requests, expected, steps
        self.time_limit, self.while_waiting = time_limit, while_waiting
        self.ticket: Ticket | None = None
        self.go = threading.Semaphore(0)
        self.released = self.done = 0  # steps

    def run(self) -> None:
        try:
            with self.requests.gate.ticket(self.time_limit) as self.ticket:
                self.ticket.expect(self.expected, self.expected)
                self.ticket.begin(self.while_waiting)
                self.ticket.enter(self.while_waiting)
                for done in range(self.steps):
                    self.done = done
                    self.go.acquire()
                    self.requests.order += self.name
                    self.ticket.step((done + 1) / self.steps, self.while_waiting)
        except RequestError as error:
            self.requests.errors[self.name] = str(error)

    @property
    def state(self) -> State | None:
        """The state of its ticket; None if it has no ticket or has ended."""
        return self.ticket.state if self.ticket and self.is_alive() else None

    def is_settled(self) -> bool:
        """Return whether it has ended, waits for others, or waits for the test in its work."""
        if self.state is State.WORKING:
            return self.done == self.released
        return self.state in WAIT_STATES or not self.is_alive()


class Requests:
    """A queue and its requests, in threads, which do nothing more until the test continues."""

    def __init__(self, waiting: int = 16, devices: int = 1) -> None:
        self.counts: list[tuple[int, int]] = []
        self.gate = Gate(waiting, lambda *counts: self.counts.append(counts), devices)
        self.requests: dict[str, Request] = {}
        self.order = ""  # the names, in the order of their steps
        self.errors: dict[str, str] = {}

    def send(
        self,
        name: str,
        expected: float | None = None,
        steps: int = 3,
        time_limit: float = math.inf,
        while_waiting: Callable[[], None] = keep_waiting,
    ) -> str:
        """Send a request; return the names of those that work then."""
        request = Request(self, name, expected, steps, time_limit, while_waiting)
        self.requests[name] = request
        request.start()
        return self.working()

    def step(self, name: str, steps: int = 1) -> str:
        """End steps of a request that works; return the names of those that work then."""
        for _ in range(steps):
            assert name in self.working()
            self.requests[name].released += 1
            self.requests[name].go.release()
        return self.working()

    def working(self) -> str:
        return "".join(sorted(n for n, state in self.states().items() if state is State.WORKING))

    def states(self) -> dict[str, State | None]:
        """Return the states that the requests have when none of them can continue."""
        until(self.are_settled)
        return {name: request.state for name, request in self.requests.items()}

    def are_settled(self) -> bool:
        with self.gate._changed:
            settled = all(request.is_settled() for request in self.requests.values())
            return settled and not self.gate._may_start() and not self.gate._may_work()

    def finish(self) -> str:
        """End the steps of all requests; return the names in the order of all steps."""
        while working := self.working():
            self.step(working[0])
        assert not any(request.is_alive() for request in self.requests.values())
        assert self.counts[-1] == (0, 0)
        return self.order


def test_requests_without_an_estimate_are_served_in_order_of_arrival() -> None:
    requests = Requests()
    for name in "cadbe":
        assert requests.send(name) == "c"
    assert requests.finish() == "cccaaadddbbbeee"


def test_a_short_request_overtakes_a_long_one_between_two_steps() -> None:
    requests = Requests()
    requests.send("L", 100)
    assert requests.step("L") == "L"
    assert requests.send("s", 1) == "L"
    assert requests.step("L") == "s"
    assert requests.finish() == "LLsssL"


def test_at_most_two_use_the_networks() -> None:
    requests = Requests()
    requests.send("L", 100)
    requests.send("m", 50)
    assert requests.step("L") == "m"
    requests.send("s", 1)  # the shortest, but two are in the networks
    assert requests.step("m") == "m"
    assert requests.finish() == "LmmmsssLL"


def test_many_short_requests_do_not_starve_a_long_one(clock: SimpleNamespace) -> None:
    requests = Requests()
    working = requests.send("L", 3.5)  # overtaken by arrivals within 3.5 s only
    for name in "123456":
        clock.now += 1
        requests.send(name, 0, steps=1)
        working = requests.step(working)
    assert requests.finish() == "L123LL456"


def test_a_full_queue_refuses_with_the_time_to_retry() -> None:
    requests = Requests(waiting=1)
    requests.send("a", 7)
    requests.send("b", 7)
    requests.step("a")
    requests.send("c", 7)
    assert requests.errors == {
        "c": "overloaded: 2 requests run or wait, which is the limit; try again in 5 s"
    }
    requests.step("a", 2)
    requests.send("d", 7)
    assert requests.finish() == "aaabbbddd"


@pytest.mark.parametrize(
    ("expected", "seconds", "error", "sentence"),
    [
        (30, 50, None, ""),
        # 20 s for the one before
        (30, 40.5, ("overloaded", 10), "^overloaded: .* try again in 10 s$"),
        # too long even on an idle server
        (50, 40, ("invalid_request", None), "^timeout: .* try again with more time$"),
        (None, 1, None, ""),
    ],
)
def test_a_request_that_cannot_end_in_time_is_refused_at_once(
    expected: float | None, seconds: float, error: tuple[str, int | None] | None, sentence: str
) -> None:
    gate = Gate(16, lambda running, queued: None)
    with gate.ticket() as first, gate.ticket() as longer, gate.ticket(seconds) as ticket:
        first.expect(20, 20)
        longer.expect(1e4, 1e4)  # its rank is higher
        if error is None:
            ticket.expect(expected, expected)
        else:
            with pytest.raises(RequestError, match=sentence) as caught:
                ticket.expect(expected, expected)
            assert (caught.value.kind, caught.value.retry_after) == error


def test_without_a_minimum_no_request_is_refused() -> None:
    gate = Gate(16, lambda running, queued: None)
    with gate.ticket() as first, gate.ticket(40) as ticket:
        first.expect(20, None)
        ticket.expect(30, 30)
    with gate.ticket() as first, gate.ticket(40) as ticket:
        first.expect(50, 50)
        ticket.expect(1e4, None)


def test_the_time_limit_ends_a_request_that_works_or_waits(clock: SimpleNamespace) -> None:
    requests = Requests()
    requests.send("a", time_limit=0.3)
    requests.send("b", time_limit=0.1)
    requests.send("c")
    clock.now += 0.2
    until(lambda: requests.errors)
    assert requests.errors == {"b": "the request was not done within its 0.1 s"}
    assert requests.step("a") == "a"
    clock.now += 0.2
    assert requests.step("a") == "c"
    assert requests.errors["a"] == "the request was not done within its 0.3 s"
    assert requests.finish() == "aaccc"


def test_the_networks_are_not_granted_after_the_time_limit(clock: SimpleNamespace) -> None:
    counts: list[tuple[int, int]] = []
    gate = Gate(1, lambda *now: counts.append(now))
    with pytest.raises(TimeUp), gate.ticket(1) as ticket:
        ticket.begin(never_waits)
        clock.now += 2
        ticket.enter(never_waits)
    assert counts[-1] == (0, 0)


def test_a_caller_that_has_gone_leaves_the_queue() -> None:
    def raise_time_up() -> None:
        raise TimeUp("gone")

    requests = Requests()
    requests.send("a")
    requests.send("b", while_waiting=raise_time_up)  # waits for the networks
    until(lambda: "b" in requests.errors)
    requests.send("c")
    requests.send("d")
    requests.send("e", while_waiting=raise_time_up)  # waits for its start
    until(lambda: "e" in requests.errors)
    assert requests.errors == {"b": "gone", "e": "gone"}
    assert requests.finish() == "aaacccddd"


def test_the_clock_stands_still_while_a_request_waits(clock: SimpleNamespace) -> None:
    requests = Requests()
    requests.send("a")
    requests.send("b")
    ticket = requests.requests["b"].ticket
    assert ticket
    start = ticket.clock()
    clock.now += 10
    assert requests.step("a", 3) == "b"
    assert (ticket.waited, ticket.clock()) == (10, start)
    clock.now += 5
    assert (ticket.waited, ticket.clock()) == (10, start + 5)
    requests.finish()


def test_it_reports_how_many_work_and_wait() -> None:
    requests = Requests()
    requests.send("a")
    assert requests.counts[-1] == (1, 0)
    requests.send("b")
    assert requests.counts[-1] == (1, 1)
    requests.finish()  # checks (0, 0)


def test_a_request_is_prepared_and_finished_beside_the_networks_of_others() -> None:
    gate = Gate(16, lambda *counts: counted.append(counts))
    counted: list[tuple[int, int]] = []
    with gate.ticket() as first, gate.ticket() as second, gate.ticket() as third:
        first.begin(never_waits)
        first.enter(never_waits)
        second.begin(never_waits)  # while the first works
        assert [first.state, second.state] == [State.WORKING, State.PREPARING]
        assert counted[-1] == (2, 1)
        entering = threading.Thread(target=second.enter, args=(keep_waiting,), daemon=True)
        entering.start()
        until(lambda: counted[-1] == (1, 2))
        assert second.state is State.PREPARED
        first.leave(1)
        entering.join(PATIENCE)  # while the first finishes
        assert [first.state, second.state] == [State.FINISHING, State.WORKING]
        third.begin(never_waits)
        assert counted[-1] == (3, 0)


def test_at_most_three_are_started() -> None:
    requests = Requests()
    with requests.gate.ticket() as first:
        first.begin(never_waits)
        first.enter(never_waits)
        first.leave(1)  # it still has its memory
        for name in "bcd":
            requests.send(name)
        assert list(requests.states().values()) == [State.WORKING, State.PREPARED, State.WAITING]
    assert list(requests.states().values()) == [State.WORKING, State.PREPARED, State.PREPARED]
    requests.finish()


def test_a_request_that_finishes_delays_nobody() -> None:
    gate = Gate(16, lambda *counts: None)
    with gate.ticket() as ticket:
        ticket.expect(40, 40)
        ticket.begin(never_waits)
        ticket.enter(never_waits)
        assert gate.expected_wait(1e3) == 40
        ticket.leave(1)
        assert gate.expected_wait(1e3) == 0


def test_one_works_on_each_device() -> None:
    requests = Requests(devices=2)
    for name in "abcd":
        requests.send(name, 10)
    assert requests.working() == "ab" and requests.counts[-1] == (2, 2)
    assert requests.step("b", 3) == "ac"
    requests.finish()


def test_on_two_devices_a_shorter_request_waits_for_the_pause_of_a_longer_one() -> None:
    requests = Requests(devices=2)
    requests.send("L", 100)
    requests.send("m", 50)
    requests.send("s", 10)
    assert requests.step("m") == "Lm"  # it is the second of the three
    assert requests.step("L") == "ms"
    requests.send("t", 1)
    assert requests.step("s") == "ms"
    assert requests.step("m") == "st"
    requests.send("u", 1)  # shorter than s, but two a device use them
    assert requests.step("s") == "st"
    assert requests.step("t", 3) == "su"  # t is done, and three use them
    requests.finish()


def test_on_two_devices_two_more_requests_may_wait() -> None:
    gate = Gate(1, lambda *counts: None, 2)
    with gate.ticket(), gate.ticket():
        gate.check_capacity()
        full = r"^overloaded: 3 requests run or wait, which is the limit; "
        with gate.ticket(), pytest.raises(Overloaded, match=full):
            gate.check_capacity()


def test_the_expected_wait_ends_when_the_first_device_is_free() -> None:
    gate = Gate(16, lambda *counts: None, 2)
    with gate.ticket() as a, gate.ticket() as b, gate.ticket() as c, gate.ticket() as d:
        a.expect(40, 40)
        assert gate.expected_wait(1e3) == 0
        b.expect(50, 50)
        assert gate.expected_wait(1e3) == 40
        c.expect(60, 60)  # after a, until 100
        assert gate.expected_wait(1e3) == 50
        d.expect(70, 70)  # after b, until 120
        assert gate.expected_wait(1e3) == 100
        a.progress = 0.5
        assert gate.expected_wait(1e3) == 80
        assert gate.expected_wait(0) == 0


def test_on_two_devices_a_request_that_cannot_end_in_time_is_refused() -> None:
    gate = Gate(16, lambda *counts: None, 2)
    with (
        gate.ticket() as a,
        gate.ticket() as b,
        gate.ticket(40.5) as late,
        gate.ticket(31) as early,
    ):
        a.expect(20, 20)
        early.expect(30, 30)  # the other device is free
        b.expect(21, 21)
        with pytest.raises(Overloaded, match=r"waits 20\.0 s for others, .* try again in 10 s$"):
            late.expect(30, 30)
