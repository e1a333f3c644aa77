"""Requests of the stream side by side, with networks that return arrays."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from backends.maisi import fidelity, stream
from backends.maisi.forecast import Pace
from backends.maisi.gate import Gate, State

PATIENCE = 20  # seconds


@dataclass(frozen=True)
class Input:
    array: Any

    def as_numpy(self) -> Any:
        return self.array


class Requests:
    """A queue, and the requests that are done."""

    def __init__(self, variant: dict[str, Any]) -> None:
        self.variant, self.gate, self.pace = variant, Gate(8, lambda *counts: None), Pace()
        self.done: list[str] = []
        self.called: list[tuple[str, str]] = []
        self.prepared: list[tuple[str, str, int, tuple[int, ...]]] = []

    def run(self, name: str, **inputs: Any) -> None:
        """Answer a request of 32^3 voxels in two steps; `called` gets its calls of networks."""

        def run_model(model: str, tensors: Any, outputs: Any) -> list[Any]:
            self.called.append((name, model))
            if model == "mask_encoder":
                return [np.zeros((1, 32, 8, 8, 8), np.float32)]
            if model == "vae_decoder":
                return [np.full((1, 1, 32, 32, 32), 500, np.int16)]
            return [tensors["latent"], tensors["z"]]

        def send(stage: str, progress: float, **outputs: Any) -> None:
            if stage == "done":
                self.done.append(name)

        request = {"steps": np.array([2], np.int32), **inputs}
        tensors = {key: Input(value) for key, value in request.items()}

        def prepare(model: str, rows: int, volume: tuple[int, ...]) -> None:
            self.prepared.append((name, model, rows, volume))

        stream.run(self.variant, tensors, run_model, prepare, send, self.pace, self.gate, 60)

    def start(self, name: str, **inputs: Any) -> threading.Thread:
        thread = threading.Thread(target=self.run, args=(name,), kwargs=inputs, daemon=True)
        thread.start()
        return thread


@dataclass(frozen=True)
class Block:
    """A function that waits for `go` in its first call, which sets `reached`."""

    function: Callable[..., Any]
    reached: threading.Event
    go: threading.Event

    def __call__(self, *arguments: Any) -> Any:
        if not self.reached.is_set():
            self.reached.set()
            assert self.go.wait(PATIENCE)
        return self.function(*arguments)


def blocked(monkeypatch: pytest.MonkeyPatch, module: Any, name: str) -> Block:
    block = Block(getattr(module, name), threading.Event(), threading.Event())
    monkeypatch.setattr(module, name, block)
    return block


MASK = np.zeros((32, 32, 32), np.uint8)
MASK[8:24, 8:24, 8:24] = 22
BORDERS = MASK.copy()  # the networks' volume has none
BORDERS[8:24, 8:24, 8:24:2] = 227
SIDES = (32, 32, 32)
SIZE = np.array(SIDES, np.int32)


def test_a_volume_is_finished_beside_the_networks_of_the_next(
    mini: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    finishing, requests = blocked(monkeypatch, fidelity, "measure"), Requests(mini)
    first = requests.start("first", mask=MASK)
    assert finishing.reached.wait(PATIENCE)
    requests.run("second", size=SIZE)
    finishing.go.set()
    first.join(PATIENCE)
    assert requests.done == ["second", "first"]


def test_a_mask_is_prepared_beside_the_networks_of_others(
    mini: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    preparing = blocked(monkeypatch, stream.request_steps, "prepare_mask")
    requests = Requests(mini)
    first = requests.start("first", mask=MASK)
    assert preparing.reached.wait(PATIENCE)
    requests.run("second", size=SIZE)
    preparing.go.set()
    first.join(PATIENCE)
    assert requests.done == ["second", "first"]
    assert [name for name, _ in requests.called] == ["second"] * 3 + ["first"] * 4


def test_networks_prepare_for_a_request_that_has_started(
    mini: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    preparing = blocked(monkeypatch, stream.request_steps, "prepare_mask")
    requests = Requests(mini)
    first = requests.start("first", mask=MASK, guidance=np.array([2], np.float32))
    assert preparing.reached.wait(PATIENCE)
    expected = [
        ("first", "mask_encoder", 2, SIDES),
        ("first", "flow_masked", 2, SIDES),
        ("first", "vae_decoder", 1, SIDES),
    ]
    assert requests.prepared == expected
    requests.run("second", size=SIZE)
    expected += [("second", "flow", 1, SIDES), ("second", "vae_decoder", 1, SIDES)]
    requests.run("third", mask=MASK, mask_only=np.array([True]))  # needs neither network
    assert requests.prepared == expected
    interval = np.array([0.4, 1.0], np.float32)
    requests.run(
        "fourth", size=SIZE, guidance=np.array([2], np.float32), guidance_interval=interval
    )
    expected += [("fourth", "flow", rows, SIDES) for rows in (2, 1)]
    expected += [("fourth", "vae_decoder", 1, SIDES)]
    assert requests.prepared == expected
    preparing.go.set()
    first.join(PATIENCE)


def test_others_use_the_networks_while_a_volume_is_measured_that_is_sampled_again(
    mini: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    measuring, requests = blocked(monkeypatch, fidelity, "measure"), Requests(mini)
    first = requests.start("first", mask=BORDERS, redraws=np.array([1], np.int32))
    assert measuring.reached.wait(PATIENCE)
    (ticket,) = requests.gate._tickets
    assert ticket.state is State.FINISHING and 0.5 < ticket.progress < 0.6
    requests.run("second", size=SIZE)
    measuring.go.set()
    first.join(PATIENCE)
    assert requests.done == ["second", "first"]
    assert [name for name, _ in requests.called] == ["first"] * 4 + ["second"] * 3 + ["first"] * 3
