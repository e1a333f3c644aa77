"""Wrong messages and files: the short form of the fuzzing, and that it would notice."""

from __future__ import annotations

import random

import grpc
import pytest

from reliability import fuzz, mutations
from tests.conftest import TOKEN, Server


def test_nothing_is_found(server: Server) -> None:
    report = fuzz.fuzz(server, TOKEN, 100, 1)
    assert report["found"] == []
    assert report["refused"] > 65 and report["answered"] + report["refused"] == 110
    assert report["kinds"] > 20  # different sentences, after each of which volumes were made


def test_messages_are_many_and_the_same_by_seed() -> None:
    inner = mutations.good("mini.flow")
    inner.inputs[0].name = "latent"

    def draw(seed: int) -> list[bytes]:
        chance = random.Random(seed)
        messages = (
            mutations.wrong(chance, ["mini", "mini.flow"], {"mini.flow": [inner]})
            for _ in range(200)
        )
        return [message.SerializeToString(deterministic=True) for message in messages]

    assert draw(1) == draw(1) != draw(2)
    assert len(set(draw(1))) > 180


@pytest.mark.parametrize(
    ("message", "outcome"),
    [
        ("", "answered"),
        ("steps: 0 is outside 1 to 1000", "refused"),
        ('Traceback (most recent call last): File "x"', "revealed: Traceback"),
        ("could not open /tmp/maisi-serve-x/config", "revealed: could not open"),
        ("model.py failed", "revealed: model.py"),
    ],
)
def test_what_an_answer_must_not_tell(message: str, outcome: str) -> None:
    assert fuzz._classify(message).outcome.startswith(outcome)


def test_answers_of_one_kind_differ_in_numbers_and_names_alone() -> None:
    def kind(sentence: str) -> str:
        return fuzz.Answer("refused", sentence).kind

    assert kind("steps: 0 is outside 1 to 1000") == kind("steps: -7 is outside 1 to 1000")
    assert kind("modality: 'a' is not one of x") == kind("modality: 'b' is not one of x")
    assert kind("latent: [1, 2] does not fit") == kind("latent: [3] does not fit")
    assert kind("latent: holds NaN") != kind("z: holds NaN") != ""


def test_a_server_that_dies_or_hangs_is_noticed() -> None:
    answers = fuzz.messages("127.0.0.1:9", "127.0.0.1:9", ["mini"], {}, random.Random(0))
    assert {next(answers).outcome.partition(":")[0] for _ in range(20)} == {"lost"}

    class Late(grpc.RpcError):
        def code(self) -> grpc.StatusCode:
            return grpc.StatusCode.DEADLINE_EXCEEDED

    assert fuzz._of_rpc(Late()).outcome == "hung"
