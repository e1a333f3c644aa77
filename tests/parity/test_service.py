"""Seeds, the two endpoints, refusals and cancellation, over gRPC against a real server."""

from __future__ import annotations

import json
import queue
import re
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton

from export import variant as variants
from export.arrays import Array
from tests.conftest import PATIENCE, Server
from tests.parity.conftest import Caller, stream, tensors

Mask = Callable[..., Array]
WIDTH = variants.load("mini").networks["controlnet"]["num_channels"][0]
TWO = np.array([2], np.int32)


def test_the_seed_decides(caller: Caller, mask: Mask) -> None:
    inputs = {"mask": mask(32, 32, 32), "steps": TWO}
    first, report = caller.volume(**inputs, seed=np.array([2**63 - 1]))
    second, _ = caller.volume(**inputs, seed=np.array([2**63 - 1]))
    other, _ = caller.volume(**inputs, seed=np.array([0]))
    assert report["seed"] == 2**63 - 1
    assert first.tobytes() == second.tobytes()
    assert (first != other).mean() > 0.1


def test_a_request_has_its_callers_id_or_one_of_its_own(caller: Caller) -> None:
    inputs = tensors({"size": np.array([32, 32, 32], np.int32), "steps": TWO})

    def report(**id_: str) -> Any:
        text = caller.client.infer("mini", inputs, **id_).as_numpy("report")
        return json.loads(text.tobytes())

    with_id, without_id = report(request_id="case-7"), report()
    assert with_id["request_id"] == "case-7" and re.fullmatch(r"\w{12}", without_id["request_id"])


def test_a_seed_that_was_drawn_gives_the_volume_again(caller: Caller) -> None:
    size = np.array([32, 32, 32], np.int32)
    first, report = caller.volume(size=size, steps=TWO)
    second, _ = caller.volume(size=size, steps=TWO, seed=np.array([report["seed"]]))
    assert first.tobytes() == second.tobytes()


@pytest.mark.parametrize("solver", [b"euler", b"heun", b"ab2"])
def test_both_endpoints_give_the_same_bytes(
    caller: Caller, server: Server, mask: Mask, solver: bytes
) -> None:
    inputs = {
        "mask": mask(33, 32, 40),
        "seed": np.array([4]),
        "steps": np.array([3], np.int32),
        "guidance": np.array([2], np.float32),
        "guidance_interval": np.array([0.3, 0.9], np.float32),
        "solver": np.array([solver], object),
    }
    image, report = caller.volume(**inputs)
    messages = stream(server, **inputs)
    assert messages[-1].as_numpy("image").tobytes() == image.tobytes()
    last = json.loads(messages[-1].as_numpy("report").tobytes())
    timing = {"request_id", "seconds", "versions"}
    assert {k: v for k, v in last.items() if k not in timing} == {
        k: v for k, v in report.items() if k not in timing
    }
    stages = [message.as_numpy("stage").tobytes().decode() for message in messages]
    assert list(dict.fromkeys(stages)) == [
        "condition",
        "mask_encoder",
        "sampler",
        "decoder",
        "done",
    ]
    progress = [float(message.as_numpy("progress")[0]) for message in messages]
    assert progress == sorted(progress)
    assert (progress[0], progress[-1]) == (0.0, 1.0)
    assert all(message.as_numpy("image") is None for message in messages[:-1])


@pytest.mark.parametrize("masked", [True, False])
def test_guidance_within_an_interval(caller: Caller, mask: Mask, masked: bool) -> None:
    shape = {"mask": mask(48, 48, 48)} if masked else {"size": i4(48, 48, 48)}

    def generate(*interval: float, guidance: float = 2) -> Array:
        inputs = {"guidance_interval": f4(*interval)} if interval else {}
        image, report = caller.volume(
            **shape, **inputs, seed=np.array([4]), steps=i4(5), guidance=f4(guidance)
        )
        assert report["guidance_interval"] == [round(end, 3) for end in interval or (0, 1)]
        return image

    everywhere, nowhere = generate(), generate(guidance=0)
    assert generate(0, 1).tobytes() == everywhere.tobytes()
    assert generate(0, 0).tobytes() == nowhere.tobytes()
    partly = generate(0.3, 0.9)
    for other in (everywhere, nowhere):
        assert (partly != other).mean() > 0.1


def i4(*values: int) -> Array:
    return np.array(values, np.int32)


def f4(*values: float) -> Array:
    return np.array(values, np.float32)


def text(value: bytes) -> Array:
    return np.array([value], object)


def u1(value: bytes) -> Array:
    return np.frombuffer(value, np.uint8)


def block(*shape: int, label: int = 22) -> Array:
    return np.full(shape, label, np.uint8)


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "empty mask": ({"mask": block(32, 32, 32, label=0)}, "mask: every voxel is 0"),
    "no voxels": ({"mask": block(0, 32, 32)}, "mask"),
    "wrong type": ({"mask": np.zeros((32, 32, 32), np.float32)}, "'mask'.*FP32.*UINT8"),
    "2-D": ({"mask": block(32, 32)}, "'mask'"),
    "4-D": ({"mask": block(1, 32, 32, 32)}, "'mask'"),
    "too large": ({"mask": block(32, 32, 300)}, "mask: 32 x 32 x 300 voxels is outside"),
    "too many": ({"size": i4(256, 256, 256)}, "size: .* 16777216 voxels, and at most"),
    "both": ({"mask": block(32, 32, 32), "size": i4(32, 32, 32)}, "size: cannot be combined"),
    "label": ({"mask": block(32, 32, 32, label=7)}, "mask: holds 7, and the labels of mini are"),
    "spacing NaN": ({"spacing": f4(2, np.nan, 2)}, "spacing: 2 x nan x 2 mm"),
    "spacing negative": ({"spacing": f4(2, -1, 2)}, "spacing: 2 x -1 x 2 mm"),
    "modality": ({"modality": text(b"pet")}, "modality: 'pet' is not one of mri_t1"),
    "bad UTF-8": ({"modality": text(b"\xff\xff")}, "modality: .* UTF-8"),
    "steps 0": ({"steps": i4(0)}, "steps: 0 is outside the allowed range, 1 to 1000"),
    "steps 10^6": ({"steps": i4(10**6)}, "steps: 1000000 is outside"),
    "guidance": ({"guidance": f4(np.inf)}, "guidance: inf is outside the allowed range, 0 to 20"),
    "interval": ({"guidance_interval": f4(0.8, 0.2)}, "guidance_interval: 0.8 to 0.2 is not"),
    "seed": ({"seed": np.array([-(2**63)])}, "seed: -9223372036854775808 is outside"),
    "solver": ({"solver": text(b"")}, "solver: '' is not one of euler, heun, ab2"),
    "latent": (
        {"size": i4(32, 32, 32), "latent": np.zeros((1, 4, 8, 8, 9), np.float32)},
        r"latent: shape \[1, 4, 8, 8, 9\] does not fit .* takes \[1, 4, 8, 8, 8\]",
    ),
    "latent infinite": (
        {"size": i4(32, 32, 32), "latent": np.full((1, 4, 8, 8, 8), np.inf, np.float32)},
        "latent: holds NaN or infinite",
    ),
    "latent huge": (
        {
            "size": i4(32, 32, 32),
            "latent": np.full((1, 4, 8, 8, 8), 3e38, np.float32),
            "steps": TWO,
        },
        "image: the networks gave NaN or infinite",
    ),
}


@pytest.mark.parametrize(("inputs", "sentence"), BAD.values(), ids=BAD.keys())
def test_a_bad_request_gets_its_sentence_at_both_endpoints(
    caller: Caller, server: Server, inputs: dict[str, Any], sentence: str
) -> None:
    refused = caller.refusal(**inputs)
    streamed = stream(server, **inputs)[-1]
    assert isinstance(streamed, triton.InferenceServerException)
    for message in (refused, str(streamed.message())):
        assert re.search(sentence, message), message
        assert "Traceback" not in message
        assert ".py" not in message
        if "'mask'" not in sentence:  # as Triton names it, of whose own errors these are
            assert re.match(r"(in ensemble 'mini', )?\[invalid_request\] ", message), message
    assert caller.client.is_model_ready("mini")


def test_an_error_with_a_status_leaves_the_server_up(caller: Caller, server: Server) -> None:
    # The header asks Triton to end the stream with the error's status; 2.51 crashed on an error and
    # the end of its stream sent one after the other.
    results: queue.Queue[Any] = queue.Queue()
    with triton.InferenceServerClient(server.grpc) as client:
        client.start_stream(
            lambda result, error: results.put(error or result),
            headers={"triton_grpc_error": "true"},
        )
        client.async_stream_infer("mini.stream", tensors({"steps": i4(0)}))
        message = results.get(timeout=PATIENCE)
        while not isinstance(message, triton.InferenceServerException):
            message = results.get(timeout=PATIENCE)
    assert "steps: 0 is outside" in str(message.message())
    time.sleep(1)
    assert caller.volume(size=i4(32, 32, 32), steps=TWO)[0].shape == (32, 32, 32)


@pytest.mark.slow
def test_a_gigabyte_of_garbage_is_refused_and_the_next_request_served(caller: Caller) -> None:
    garbage = np.full((1024, 1024, 1000), 7, np.uint8)
    assert "mask: 1024 x 1024 x 1000 voxels is outside" in caller.refusal(mask=garbage)
    del garbage
    image, _ = caller.volume(size=i4(32, 32, 32), steps=TWO)
    assert image.shape == (32, 32, 32)


@pytest.mark.parametrize("plan", [b"", b"{}", b"\xff", b"[" * 5000, b"x" * 10**7])
def test_inner_models_do_not_trust_their_callers(caller: Caller, plan: bytes) -> None:
    latent = np.zeros((1, 4, 8, 8, 8), np.float32)
    refused = caller.refusal(
        "mini.sampler",
        noise=latent,
        labels=block(1, 32, 32, 32),
        plan=u1(plan),
    )
    assert refused.startswith("[invalid_request] plan: ")
    refused = caller.refusal(
        "mini.decoder",
        latent=latent,
        sampled=u1(b"{}"),
        labels=block(1, 32, 32, 32),
        plan=u1(plan),
    )
    assert refused.startswith("[invalid_request] plan: ")


@pytest.mark.parametrize(
    "sampled",
    [
        *(b"", b"[]", b"\xff", b"[" * 900, b'{"seconds": 1}', b'{"seconds": {}}'),
        b'{"seconds": {"sampler": NaN}}',
        b'{"seconds": {"sampler": 1e999}}',
        b'{"seconds": {"sampler": 1, "mask_encoder": -1}}',
    ],
)
def test_forged_seconds_are_refused(caller: Caller, sampled: bytes) -> None:
    conditions = caller.ask("mini.condition", mask=block(32, 32, 32), guidance=f4(0))
    refused = caller.refusal(
        "mini.decoder",
        latent=conditions["noise"],
        labels=conditions["labels"],
        plan=conditions["plan"],
        sampled=u1(sampled),
    )
    assert refused == "[invalid_request] sampled: this is not an output of the sampler model"


def test_inner_models_take_what_fits_the_plan_alone(caller: Caller) -> None:
    conditions = caller.ask("mini.condition", mask=block(32, 32, 32), guidance=f4(2))
    noise, labels, plan = conditions["noise"], conditions["labels"], conditions["plan"]
    sampled = u1(b'{"seconds": {"sampler": 1}}')
    for tensor, wrong in (
        ("noise", np.zeros((1, 4, 8, 8, 16), np.float32)),
        ("noise", np.full((1, 4, 8, 8, 8), np.nan, np.float32)),
        ("labels", labels[:1]),
        ("labels", labels[:, :16]),
    ):
        inputs = {"noise": noise, "labels": labels, "plan": plan} | {tensor: wrong}
        refused = caller.refusal("mini.sampler", **inputs)
        assert refused.startswith(f"[invalid_request] {tensor}: ")
        if tensor == "noise":
            tensor, inputs = "latent", {"latent": inputs.pop("noise"), **inputs}
        else:
            inputs = {"latent": inputs.pop("noise"), **inputs}
        refused = caller.refusal("mini.decoder", **inputs, sampled=sampled)
        assert refused.startswith(f"[invalid_request] {tensor}: ")
    strange = np.full_like(labels, 99)
    refused = caller.refusal(
        "mini.decoder", latent=noise, labels=strange, plan=plan, sampled=sampled
    )
    expected = "[invalid_request] mask: holds 99, and the labels of mini are 0, 22, "
    assert refused.startswith(expected)


@pytest.mark.parametrize("count", [1, 3, 2**31 - 1])
@pytest.mark.parametrize(
    ("model", "output"), [("mini", "report"), ("mini.condition", "plan"), ("mini.stream", "stage")]
)
def test_a_text_asked_for_as_classes_leaves_the_server_up(
    caller: Caller, server: Server, model: str, output: str, count: int
) -> None:
    # For an output of BYTES Triton 2.51 dies of SIGFPE: it divides by the size of an element.
    inputs = tensors({"size": i4(32, 32, 32), "steps": i4(1)})
    outputs = [triton.InferRequestedOutput(output, class_count=count)]
    results: queue.Queue[Any] = queue.Queue()
    with triton.InferenceServerClient(server.grpc) as client:
        if model == "mini.stream":
            client.start_stream(lambda result, error: results.put(error or result))
            client.async_stream_infer(model, inputs, outputs=outputs)
            classes = results.get(timeout=PATIENCE).as_numpy(output)
        else:
            classes = client.infer(model, inputs, outputs=outputs).as_numpy(output)
        assert re.fullmatch(rb"\d+:\d+", classes.flat[0])  # value:index of a byte
    assert caller.volume(size=i4(32, 32, 32), steps=TWO)[0].shape == (32, 32, 32)


def calls_of_flow(caller: Caller) -> int:
    stats = caller.client.get_inference_statistics("mini.flow_masked", as_json=True)
    return int(stats["model_stats"][0].get("execution_count", 0))


def steps_after_cancellation(
    caller: Caller, server: Server, mask: Mask, eventually: Callable[..., None]
) -> int:
    """Cancel a request of 1000 steps after two; return how many it still makes."""
    results: queue.Queue[Any] = queue.Queue()
    client = triton.InferenceServerClient(server.grpc)
    client.start_stream(lambda result, error: results.put(error or result))
    client.async_stream_infer("mini.stream", tensors({"mask": mask(96, 96, 96), "steps": i4(1000)}))
    stage = b""
    while stage != b"sampler":
        stage = results.get(timeout=PATIENCE).as_numpy("stage").tobytes()
    before = calls_of_flow(caller)
    eventually(lambda: calls_of_flow(caller) >= before + 2, 60)
    client.stop_stream(cancel_requests=True)
    cancelled = calls_of_flow(caller)
    # The stream runs one request at a time: a result shows that the sampler is free.
    messages = stream(server, size=i4(32, 32, 32), steps=TWO)
    assert messages[-1].as_numpy("image").shape == (32, 32, 32)
    return calls_of_flow(caller) - cancelled


def test_cancellation_frees_the_sampler_within_two_steps(
    caller: Caller, server: Server, mask: Mask, eventually: Callable[..., None]
) -> None:
    # Again where the machine delayed the cancellation.
    attempts = (steps_after_cancellation(caller, server, mask, eventually) for _ in range(5))
    assert any(steps <= 2 for steps in attempts)
