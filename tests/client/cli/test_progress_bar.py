"""Progress on a terminal: one line, whatever its width, and a remaining time if it is known."""

from __future__ import annotations

import fcntl
import io
import os
import re
import struct
import termios
from collections.abc import Callable, Iterator

import pytest
from maisi_client import Progress
from maisi_client._cli.dataset import _progress_line
from maisi_client._cli.progress_bar import Bar, Line, cells, cut, duration, seconds_left


class Screen:
    """A pseudo-terminal; `out` writes to it, `shown` returns the output since the last call."""

    def __init__(self, columns: int, encoding: str = "utf-8") -> None:
        self._reader, writer = os.openpty()
        self.out = io.TextIOWrapper(os.fdopen(writer, "wb", 0), encoding, write_through=True)
        self.encoding = encoding
        self.resize(columns)

    def resize(self, columns: int) -> None:
        size = struct.pack("HHHH", 24, columns, 0, 0)
        fcntl.ioctl(self.out.fileno(), termios.TIOCSWINSZ, size)

    def shown(self) -> str:
        self.out.write("\a")  # a terminal reads what is written bit by bit
        output = b""
        while not output.endswith(b"\a"):
            output += os.read(self._reader, 65536)
        return output[:-1].decode(self.encoding)

    def close(self) -> None:
        self.out.close()
        os.close(self._reader)


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Screen]]:
    monkeypatch.setenv("TERM", "xterm")
    screens: list[Screen] = []

    def open_(columns: int, encoding: str = "utf-8") -> Screen:
        screens.append(Screen(columns, encoding))
        return screens[-1]

    yield open_
    for one in screens:
        one.close()


def bar_line(screen: Screen, stage: str = "sampler", fraction: float = 0.5) -> str:
    """Return the line that a bar draws, without the sequence that clears the line."""
    Bar(screen.out)(Progress(stage, fraction))
    (line,) = screen.shown().split("\r\x1b[2K")[1:]
    return line


@pytest.mark.parametrize("columns", [200, 80, 40, 20, 6, 3])
@pytest.mark.parametrize("stage", ["sampler", "等待中的阶段名称很长", "e\u0301tape " * 5])
def test_a_bar_stays_within_its_line(
    screen: Callable[..., Screen], columns: int, stage: str
) -> None:
    line = bar_line(screen(columns), stage)
    assert 0 < cells(line) < columns
    assert columns < 40 or " 50%" in line


def test_cells_are_those_of_a_terminal() -> None:
    assert [cells(text) for text in ("abc", "等待", "e\u0301", "\uff21", "")] == [3, 4, 1, 2, 0]
    assert [cut("等待e\u0301x", width) for width in (0, 1, 2, 3, 5, 9)] == [
        *("", "", "等", "等", "等待e\u0301", "等待e\u0301x")
    ]


def test_a_dataset_has_one_line_of_a_terminal(screen: Callable[..., Screen]) -> None:
    terminal = screen(30)
    text = "1 of 7 rows, 1 failed, 360 volumes/h, 5 s left"
    with _progress_line(terminal.out, lambda: text, 60) as say:
        say("bad: modality")
        say("")
    parts = terminal.shown().split("\r\x1b[2K")
    assert "bad: modality\r\n" in parts
    assert parts[-1] == f"{text[:29]}\r\n"
    assert set(parts) == {"", "bad: modality\r\n", text[:29], f"{text[:29]}\r\n"}


def test_a_bar_follows_the_width_as_it_changes(screen: Callable[..., Screen]) -> None:
    terminal = screen(100)
    bar = Bar(terminal.out)
    widths = []
    for columns in (100, 30, 60):
        terminal.resize(columns)
        bar(Progress("decoder", 0.3))
        widths.append(cells(terminal.shown().split("\r\x1b[2K")[-1]))
    assert widths[1] < 30 < widths[2] <= widths[0]


def test_a_terminal_that_tells_no_width_has_80_columns(screen: Callable[..., Screen]) -> None:
    assert Line(screen(0).out).width == 79


def test_nothing_is_coloured_and_nothing_is_left(screen: Callable[..., Screen]) -> None:
    terminal = screen(80)
    with Bar(terminal.out) as bar:
        bar(Progress("sampler", 0.5))
    output = terminal.shown()
    assert set(re.findall(r"\x1b\[[0-9;]*[a-zA-Z]", output)) == {"\x1b[2K"}
    assert output.endswith("\r\x1b[2K")


def test_a_terminal_without_control_sequences_gets_none(
    screen: Callable[..., Screen], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "dumb")
    terminal = screen(80)
    with Bar(terminal.out) as bar:
        bar(Progress("sampler", 0.5))
    assert terminal.shown() == ""


def test_an_encoding_without_the_bars_characters_gets_others(
    screen: Callable[..., Screen],
) -> None:
    assert "#" * 15 + "-" * 15 in bar_line(screen(80, "ascii"))
    assert "━" * 15 + "╌" * 15 in bar_line(screen(80))


def test_the_remaining_time_follows_from_progress_and_is_never_0_s(
    screen: Callable[..., Screen], monkeypatch: pytest.MonkeyPatch
) -> None:
    times: list[float] = []
    monkeypatch.setattr("maisi_client._cli.progress_bar.time.monotonic", lambda: times[-1])
    terminal, texts = screen(80), []
    bar = Bar(terminal.out)
    # 100 s in a queue, then a hundredth of the work each 0.1 s, and a long decoder.
    for seconds, stage, fraction in (
        (0.0, "waiting", 0.0),
        (100.0, "waiting", 0.0),
        (100.1, "sampler", 0.01),
        (105.0, "sampler", 0.5),
        (108.5, "decoder", 0.85),
        (109.9, "decoder", 0.999),
        (110.0, "done", 1.0),
    ):
        times.append(seconds)
        bar(Progress(stage, fraction))
        remaining = re.search(r"(\S+ \S+) left", terminal.shown())
        texts.append(remaining and remaining[1])
    assert texts == [None, None, None, "5 s", "2 s", "1 s", None]


def test_little_progress_tells_nothing() -> None:
    assert seconds_left(0.0, 1.0, 5.0) is None
    assert seconds_left(0.04, 0.96, 5.0) is None
    assert seconds_left(0.5, 0.5, 5.0) == 5.0


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.01, "1 s"), (98.1, "99 s"), (99.6, "2 min"), (5939, "99 min"), (86400, "24.0 h")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text
