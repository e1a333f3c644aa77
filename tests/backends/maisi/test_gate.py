"""Who works, who waits and who is refused."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from backends.maisi.errors import Overloaded, RequestError, TimeUp
from backends.maisi.gate import Gate

STEP = 0.02  # seconds


class Crowd:
    """Requests in threads, and the order in which their steps were done."""

    def __init__(self, waiting: int = 16) -> None:
        self.heard: list[tuple[int, int]] = []
        self.gate = Gate(waiting, lambda running, queued: self.heard.append((running, queued)))
        self.done: list[str] = []
        self.errors: dict[str, Exception] = {}
        self.threads: list[threading.Thread] = []

    def send(self, name: str, expected: float | None, steps: int, seconds: float = 1e9) -> None:
        """Send a request, and return once it has its place."""
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
            with self.gate.place(seconds) as place:
                place.expect(expected, expected)
                arrived.set()
                place.begin(still)
                for step in range(1, steps + 1):
                    time.sleep(STEP)
                    self.done.append(name)
                    place.step(step / steps, still)
        except (Overloaded, TimeUp) as error:
            self.errors[name] = error
        finally:
            arrived.set()

    def wait(self) -> str:
        for thread in self.threads:
            thread.join(20)
            assert not thread.is_alive()
        return "".join(self.done)


def still() -> None:
    """Somebody waits."""


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_of_whom_nothing_is_known_the_first_is_served_first() -> None:
    crowd = Crowd()
    for name in "abc":
        crowd.send(name, None, 3)
    assert crowd.wait() == "aaabbbccc"


def test_a_short_request_passes_a_long_one_between_two_of_its_steps() -> None:
    crowd = Crowd()
    crowd.send("L", 100, 20)
    until(lambda: "L" in crowd.done)
    crowd.send("s", 1, 3)
    order = crowd.wait()
    assert order.startswith("L") and "sss" in order and order.endswith("L")
    assert order.index("s") < 5


def test_no_more_than_two_are_begun() -> None:
    crowd = Crowd()
    crowd.send("L", 100, 20)
    until(lambda: "L" in crowd.done)
    crowd.send("m", 50, 5)
    until(lambda: "m" in crowd.done)
    crowd.send("s", 1, 3)  # shorter than both, and yet it is not a third
    order = crowd.wait()
    assert "mmmmmsss" in order and order.endswith("L")


def test_many_short_ones_do_not_starve_a_long_one() -> None:
    crowd = Crowd()
    crowd.send("L", 0.3, 10)  # what comes within 0.3 s passes it, and nothing later
    for _ in range(40):
        until(lambda: len(crowd.heard) > 0)
        crowd.send("s", 0.0, 1)
        time.sleep(STEP)
    order = crowd.wait()
    last = max(number for number, name in enumerate(order) if name == "L")
    assert "s" in order[: order.index("L") + 3]
    assert "s" in order[last:]  # it was done before they were


def test_who_finds_no_room_is_told_when_there_will_be() -> None:
    crowd = Crowd(waiting=1)
    crowd.send("a", 7, 3)
    until(lambda: crowd.gate._working is not None)
    crowd.send("b", 7, 3)
    crowd.send("c", 7, 3)
    assert crowd.wait() == "aaabbb"
    said = str(crowd.errors["c"])
    assert said.startswith("overloaded: 2 requests are here, as many as may be; try again in ")
    assert 1 <= int(said.split()[-2]) <= 7


@pytest.mark.parametrize(
    ("expected", "seconds", "error", "sentence"),
    [
        (30, 60, None, ""),
        # after the 20 s of the one before
        (30, 40.5, ("overloaded", 10), "^overloaded: .* try again in 10 s$"),
        # than it has, even alone
        (50, 40, ("invalid_request", None), "^timeout: .* try again with more time$"),
        (None, 1, None, ""),
    ],
)
def test_what_cannot_be_done_in_its_time_is_refused_at_once(
    expected: float | None, seconds: float, error: tuple[str, int | None] | None, sentence: str
) -> None:
    gate = Gate(16, lambda running, queued: None)
    with gate.place() as first, gate.place() as longer, gate.place(seconds) as place:
        first.expect(20, 20)
        longer.expect(1e4, 1e4)  # it is served later
        if error is None:
            place.expect(expected, expected)
        else:
            with pytest.raises(RequestError, match=sentence) as refused:
                place.expect(expected, expected)
            assert (refused.value.kind, refused.value.retry_after) == error


def test_what_is_not_sure_is_refused_to_nobody() -> None:
    gate = Gate(16, lambda running, queued: None)
    with gate.place() as first, gate.place(40) as place:
        first.expect(20, None)
        place.expect(30, 30)
    with gate.place(40) as place:
        place.expect(1e4, None)


def test_time_that_is_over_ends_a_request_that_works_or_waits() -> None:
    crowd = Crowd()
    crowd.send("a", None, 100, seconds=0.3)
    crowd.send("b", None, 1, seconds=0.1)
    crowd.send("c", None, 2)
    assert crowd.wait().replace("a", "") == "cc"
    assert str(crowd.errors["a"]) == "the request was not done within its 0.3 s"
    assert str(crowd.errors["b"]) == "the request was not done within its 0.1 s"


def test_who_no_longer_waits_leaves_the_queue() -> None:
    crowd = Crowd()
    crowd.send("a", None, 30)

    def gone() -> None:
        raise TimeUp("gone")

    with pytest.raises(TimeUp), crowd.gate.place() as place:
        place.begin(gone)
    assert crowd.wait() == "a" * 30
    assert crowd.heard[-1] == (0, 0)


def test_standing_still_is_not_work() -> None:
    crowd = Crowd()
    crowd.send("a", None, 10)
    with crowd.gate.place() as place:
        before = place.clock()
        place.begin(still)
        assert place.waited > 5 * STEP
        assert place.clock() - before < STEP * 2
    crowd.wait()


def test_it_tells_how_many_work_and_wait() -> None:
    crowd = Crowd()
    crowd.send("a", None, 2)
    until(lambda: (1, 0) in crowd.heard)
    crowd.send("b", None, 2)
    crowd.wait()
    assert (1, 1) in crowd.heard and crowd.heard[-1] == (0, 0)
