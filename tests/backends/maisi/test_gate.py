"""The queue: which request works, which waits and which is refused."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from backends.maisi.errors import Overloaded, RequestError, TimeUp
from backends.maisi.gate import Gate, State, Ticket

STEP = 0.02  # seconds


class Crowd:
    """Requests in threads, and the order of their steps."""

    def __init__(self, waiting: int = 16, devices: int = 1) -> None:
        self.counts: list[tuple[int, int]] = []
        self.gate = Gate(waiting, lambda *counts: self.counts.append(counts), devices)
        self.steps_done: list[str] = []
        self.errors: dict[str, Exception] = {}
        self.threads: list[threading.Thread] = []

    def send(self, name: str, expected: float | None, steps: int, seconds: float = 1e9) -> None:
        """Send a request, and return when it has its ticket."""
        arrived = threading.Event()
        thread = threading.Thread(target=self.work, args=(name, expected, steps, seconds, arrived))
        thread.start()
        self.threads.append(thread)
        assert arrived.wait(5)

    def work(
        self,
        name: str,
        expected: float | None,
        steps: int,
        seconds: float,
        arrived: threading.Event,
    ) -> None:
        try:
            with self.gate.ticket(seconds) as ticket:
                ticket.expect(expected, expected)
                arrived.set()
                ticket.begin(keep_waiting)
                ticket.enter(keep_waiting)
                for step in range(1, steps + 1):
                    time.sleep(STEP)
                    self.steps_done.append(name)
                    ticket.step(step / steps, keep_waiting)
        except (Overloaded, TimeUp) as error:
            self.errors[name] = error
        finally:
            arrived.set()

    def wait(self) -> str:
        for thread in self.threads:
            thread.join(20)
            assert not thread.is_alive()
        return "".join(self.steps_done)


def keep_waiting() -> None:
    """Do nothing: the caller still waits."""


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_requests_without_an_estimate_are_served_in_order_of_arrival() -> None:
    crowd = Crowd()
    for name in "abc":
        crowd.send(name, None, 3)
    assert crowd.wait() == "aaabbbccc"


def test_a_short_request_overtakes_a_long_one_between_two_steps() -> None:
    crowd = Crowd()
    crowd.send("L", 100, 20)
    until(lambda: "L" in crowd.steps_done)
    crowd.send("s", 1, 3)
    order = crowd.wait()
    assert order.startswith("L") and "sss" in order and order.endswith("L")
    assert order.index("s") < 5


def test_at_most_two_use_the_networks() -> None:
    crowd = Crowd()
    crowd.send("L", 100, 20)
    until(lambda: "L" in crowd.steps_done)
    crowd.send("m", 50, 5)
    until(lambda: "m" in crowd.steps_done)
    crowd.send("s", 1, 3)  # the shortest, but two are in the networks
    order = crowd.wait()
    assert "mmmmmsss" in order and order.endswith("L")


def test_many_short_requests_do_not_starve_a_long_one() -> None:
    crowd = Crowd()
    crowd.send("L", 0.3, 10)  # overtaken by arrivals within 0.3 s only
    for _ in range(40):
        until(lambda: len(crowd.counts) > 0)
        crowd.send("s", 0.0, 1)
        time.sleep(STEP)
    order = crowd.wait()
    last = max(number for number, name in enumerate(order) if name == "L")
    assert "s" in order[: order.index("L") + 3]
    assert "s" in order[last:]  # it ended before them


def test_a_full_queue_refuses_with_the_time_to_retry() -> None:
    crowd = Crowd(waiting=1)
    crowd.send("a", 7, 3)
    until(lambda: crowd.gate._in(State.WORKING))
    crowd.send("b", 7, 3)
    crowd.send("c", 7, 3)
    assert crowd.wait() == "aaabbb"
    message = str(crowd.errors["c"])
    assert message.startswith(
        "overloaded: 2 requests run or wait, which is the limit; try again in "
    )
    assert 1 <= int(message.split()[-2]) <= 7


@pytest.mark.parametrize(
    ("expected", "seconds", "error", "sentence"),
    [
        (30, 60, None, ""),
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
    with gate.ticket(40) as ticket:
        ticket.expect(1e4, None)


def test_the_time_limit_ends_a_request_that_works_or_waits() -> None:
    crowd = Crowd()
    crowd.send("a", None, 100, seconds=0.3)
    crowd.send("b", None, 1, seconds=0.1)
    crowd.send("c", None, 2)
    assert crowd.wait().replace("a", "") == "cc"
    assert str(crowd.errors["a"]) == "the request was not done within its 0.3 s"
    assert str(crowd.errors["b"]) == "the request was not done within its 0.1 s"


def test_the_networks_are_not_granted_after_the_time_limit() -> None:
    gate = Gate(1, lambda *counts: None)
    with pytest.raises(TimeUp), gate.ticket(0.05) as ticket:
        ticket.begin(keep_waiting)
        time.sleep(0.1)
        ticket.enter(keep_waiting)
    assert gate.expected_wait(0) == 0


def test_a_caller_that_has_gone_leaves_the_queue() -> None:
    crowd = Crowd()
    crowd.send("a", None, 30)

    def raise_time_up() -> None:
        raise TimeUp("gone")

    with pytest.raises(TimeUp), crowd.gate.ticket() as ticket:
        ticket.begin(keep_waiting)
        ticket.enter(raise_time_up)
    with crowd.gate.ticket() as prepared, crowd.gate.ticket() as other:
        prepared.begin(keep_waiting)
        other.begin(keep_waiting)
        with pytest.raises(TimeUp), crowd.gate.ticket() as ticket:
            ticket.begin(raise_time_up)
    assert crowd.wait() == "a" * 30
    assert crowd.counts[-1] == (0, 0)


def test_the_clock_stands_still_while_a_request_waits() -> None:
    crowd = Crowd()
    crowd.send("a", None, 10)
    with crowd.gate.ticket() as ticket:
        start = ticket.clock()
        ticket.begin(keep_waiting)
        ticket.enter(keep_waiting)
        assert ticket.waited > 5 * STEP
        assert ticket.clock() - start < STEP * 2
    crowd.wait()


def test_it_reports_how_many_work_and_wait() -> None:
    crowd = Crowd()
    crowd.send("a", None, 2)
    until(lambda: (1, 0) in crowd.counts)
    crowd.send("b", None, 2)
    crowd.wait()
    assert (1, 1) in crowd.counts and crowd.counts[-1] == (0, 0)


def test_a_request_is_prepared_and_finished_beside_the_networks_of_others() -> None:
    gate = Gate(16, lambda *counts: counted.append(counts))
    counted: list[tuple[int, int]] = []
    with gate.ticket() as first, gate.ticket() as second, gate.ticket() as third:
        first.begin(keep_waiting)
        first.enter(keep_waiting)
        second.begin(keep_waiting)  # returns while the first works
        assert [first.state, second.state] == [State.WORKING, State.PREPARING]
        assert counted[-1] == (2, 1)
        entering = threading.Thread(target=second.enter, args=(keep_waiting,))
        entering.start()
        until(lambda: second.state is State.PREPARED)
        assert counted[-1] == (1, 2)
        first.leave(1)
        entering.join(5)  # while the first finishes
        assert [first.state, second.state] == [State.FINISHING, State.WORKING]
        third.begin(keep_waiting)
        assert counted[-1] == (3, 0)


def test_at_most_three_are_started() -> None:
    gate = Gate(16, lambda *counts: None)
    with gate.ticket() as second, gate.ticket() as third, gate.ticket() as fourth:
        with gate.ticket() as first:
            for ticket in (first, second, third):
                ticket.begin(keep_waiting)
            first.enter(keep_waiting)
            first.leave(1)  # it still has its memory
            beginning = threading.Thread(target=fourth.begin, args=(keep_waiting,))
            beginning.start()
            time.sleep(STEP)
            assert fourth.state is State.WAITING
        beginning.join(5)
        assert fourth.state is State.PREPARING


def test_a_request_that_finishes_delays_nobody() -> None:
    gate = Gate(16, lambda *counts: None)
    with gate.ticket() as ticket:
        ticket.expect(40, 40)
        ticket.begin(keep_waiting)
        ticket.enter(keep_waiting)
        assert gate.expected_wait(1e3) == 40
        ticket.leave(1)
        assert gate.expected_wait(1e3) == 0


class Turns:
    """Requests whose steps end by a call of the test."""

    def __init__(self, devices: int, waiting: int = 16) -> None:
        self.gate = Gate(waiting, lambda *counts: self.counts.append(counts), devices)
        self.counts: list[tuple[int, int]] = []
        self.steps: dict[str, threading.Semaphore] = {}
        self.threads: list[threading.Thread] = []
        self.names: dict[int, str] = {}

    def send(self, name: str, expected: float) -> None:
        """Send a request, and return when it works or waits."""
        self.steps[name] = threading.Semaphore(0)
        tickets: list[Ticket] = []

        def work() -> None:
            with self.gate.ticket() as ticket:
                self.names[id(ticket)] = name
                ticket.expect(expected, expected)
                tickets.append(ticket)
                ticket.begin(keep_waiting)
                ticket.enter(keep_waiting)
                for done in range(1, 4):
                    self.steps[name].acquire()
                    ticket.step(done / 3, keep_waiting)

        self.threads.append(threading.Thread(target=work, daemon=True))
        self.threads[-1].start()
        until(lambda: tickets and tickets[0].state is not State.ARRIVED)
        time.sleep(STEP)  # it works by now if it has its turn

    def working(self) -> str:
        return "".join(sorted(self.names[id(ticket)] for ticket in self.gate._in(State.WORKING)))

    def step(self, name: str, working: str) -> None:
        """End a step of a request; then the requests `working` work."""
        self.steps[name].release()
        until(lambda: self.working() == working)
        time.sleep(STEP)
        assert self.working() == working

    def end(self) -> None:
        for steps in self.steps.values():
            steps.release(4)
        for thread in self.threads:
            thread.join(20)
            assert not thread.is_alive()
        assert self.counts[-1] == (0, 0)


def test_one_works_on_each_device() -> None:
    turns = Turns(devices=2)
    for name in "abcd":
        turns.send(name, 10)
    assert turns.working() == "ab" and turns.counts[-1] == (2, 2)
    turns.steps["b"].release(2)
    turns.step("b", "ac")  # b is done
    turns.end()


def test_on_two_devices_a_shorter_request_waits_for_the_pause_of_a_longer_one() -> None:
    turns = Turns(devices=2)
    turns.send("L", 100)
    turns.send("m", 50)
    turns.send("s", 10)
    turns.step("m", "Lm")  # it is the second of the three
    turns.step("L", "ms")
    turns.send("t", 1)
    turns.step("s", "ms")
    turns.step("m", "st")
    turns.send("u", 1)  # shorter than s, but two a device use them
    turns.step("s", "st")
    turns.steps["t"].release(2)
    turns.step("t", "su")  # t is done, and three use them
    turns.end()


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
