"""Invalid answers of a server: one sentence each, in bounded memory and time."""

from __future__ import annotations

import asyncio
import io
import json
import math
import mmap
import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import grpc  # type: ignore[import-untyped]
import maisi_client
import nibabel as nib
import numpy as np
import pytest
from maisi_client import (
    Client,
    InvalidRequest,
    MaisiError,
    Progress,
    ServerError,
    ServerUnavailable,
    Timeout,
    Volume,
)
from maisi_client._cli import main
from maisi_client._cli.progress_bar import Bar
from maisi_client._datasets.fleet import insist
from maisi_client._datasets.row import Row
from maisi_client._transport.channel import answer_bytes
from maisi_client._transport.errors import explain
from maisi_client._transport.pool import PooledServer
from maisi_client._transport.shared import Region
from maisi_client._validation import read_tensor
from maisi_client._variant import parse_variant
from tritonclient.grpc import model_config_pb2 as model_config
from tritonclient.grpc import service_pb2 as pb
from tritonclient.utils import InferenceServerException

from tests.client.fake_server import REPORT, Answer, fake_server, message, progress, volume
from tests.conftest import PATIENCE

IMAGE = np.zeros((3, 4, 5), np.int16)
MASK = np.zeros((3, 4, 5), np.uint8)
DONE = {"stage": "done", "progress": np.array([1], np.float32)}
FAILED = "sampler: the model flow failed; the server's log says why, at request 'ab12'"
ESCAPES = "\x1b[2J\x07\r\n\x00\u202e\u2066\x9b31m\ud800"
VARIANT: dict[str, Any] = {
    "name": "mini",
    "modalities": {"mri_t1": 9},
    "labels": {"22": "brain"},
    "size": {"min": [32] * 3, "max": [64] * 3, "multiple": 16, "max_voxels": 262144},
    "spacing": {"min": [0.5] * 3, "max": [5] * 3},
    "defaults": {"modality": "mri_t1"},
}
CHECK = {
    **REPORT,
    **{"size": [3, 4, 5], "padded_size": [16, 16, 16], "steps": 30, "solver": "euler"},
    **{"guidance": 0.0, "vocabulary": None, "body_added": False, "warnings": [], "labels": []},
    **{"expected_seconds": None, "expected_gb": 0.1},
}


def sync(url: str, **arguments: Any) -> Any:
    with Client(
        url, timeout=arguments.pop("timeout", PATIENCE), retries=arguments.pop("retries", 3)
    ) as client:
        return getattr(client, arguments.pop("call", "generate"))(**arguments)


def asynchronous(url: str, **arguments: Any) -> Any:
    async def ask() -> Any:
        limits = {
            "timeout": arguments.pop("timeout", PATIENCE),
            "retries": arguments.pop("retries", 3),
        }
        async with maisi_client.aio.Client(url, **limits) as client:
            return await getattr(client, arguments.pop("call", "generate"))(**arguments)

    return asyncio.run(ask())


BOTH = pytest.mark.parametrize("ask", [sync, asynchronous])


def once(**tensors: Any) -> Answer:
    """Answer with one message of these tensors and the end."""

    def answer(request: pb.ModelInferRequest, context: grpc.ServicerContext) -> Iterator[Any]:
        yield message(**tensors)
        yield message(final=True)

    return answer


def one_line(error: BaseException) -> str:
    """Return the text of an error; it must be one printable line."""
    sentence = str(error)
    assert sentence.isprintable() and sentence.isascii() and len(sentence) < 3000
    return sentence


def report(**more: Any) -> str:
    return json.dumps({**REPORT, **more})


@BOTH
@pytest.mark.parametrize(
    ("tensors", "sentence"),
    [
        ({"image": IMAGE.astype(np.float32)}, r"image is float32 \[3, 4, 5\]; int16 with 3 axes"),
        ({"image": IMAGE[0]}, r"image is int16 \[4, 5\]; int16 with 3 axes"),
        ({"image": IMAGE[None]}, r"image is int16 \[1, 3, 4, 5\]; int16 with 3 axes"),
        ({"image": IMAGE[:2]}, r"image has size \[2, 4, 5\]; \[3, 4, 5\] is expected"),
        ({"image": IMAGE[:0]}, r"image is int16 \[0, 4, 5\]; int16 with 3 axes"),
        ({"image": ("INT16", [3, 4, 5], b"12")}, "image cannot be read: cannot reshape array"),
        ({"image": ("INT16", [3, 4, 5], b"123")}, "image cannot be read: buffer size must be"),
        ({"image": ("INT16", [-1, 4, 5], bytes(160))}, r"image has size \[4, 4, 5\]"),
        ({"image": ("INT16", [2**40] * 3, bytes(120))}, "image cannot be read: "),
        ({"image": ("NONE", [3, 4, 5], bytes(480))}, "image is float64"),
        ({"image": ("BYTES", [1], b"\xff\xff\xff\x7f")}, "image "),
        (
            {"image": IMAGE, "used_mask": MASK[:, :2]},
            r"used_mask has size \[3, 2, 5\]; \[3, 4, 5\]",
        ),
        ({"image": IMAGE, "used_mask": IMAGE}, "used_mask is int16"),
        ({"image": IMAGE, "report": None}, "sent an image without a report"),
        ({"image": IMAGE, "report": MASK}, r"report is uint8 \[3, 4, 5\]; uint8 with 1 axes"),
        ({"image": IMAGE, "stage": None}, None),
        ({"image": IMAGE, "progress": None}, "names a stage without its progress"),
        (
            {"image": IMAGE, "progress": np.zeros(2, np.float32)},
            "names a stage without its progress",
        ),
        ({"image": IMAGE, "progress": np.zeros(1)}, "progress is float64"),
        ({"image": IMAGE, "stage": np.zeros(3, np.float32)}, "stage is float32"),
    ],
)
def test_wrong_tensors(
    ask: Callable[..., Any], tensors: dict[str, Any], sentence: str | None
) -> None:
    parts = {**DONE, "report": report(), **tensors}
    present = {name: value for name, value in parts.items() if value is not None}
    with fake_server(once(**present)) as (url, requests):
        if sentence is None:
            assert isinstance(ask(url, size=[3, 4, 5]), Volume)
            return
        with pytest.raises(ServerError, match=f"^the server(?:'s)? (?:{sentence})") as caught:
            ask(url, size=[3, 4, 5])
    one_line(caught.value)
    assert len(requests) == 1  # an invalid answer is not retried


@BOTH
def test_a_used_mask_comes_back_on_the_grid_of_the_mask(ask: Callable[..., Any]) -> None:
    mask = nib.Nifti1Image(np.full((6, 8, 10), 22, np.uint8), np.eye(4))
    parts = {**DONE, "report": report(), "image": IMAGE}
    with fake_server(once(**parts, used_mask=MASK)) as (url, _):
        result = ask(url, mask=mask, spacing=2)
    assert result.image.shape == result.mask.shape == (6, 8, 10)
    with (
        fake_server(once(**parts, used_mask=np.zeros((6, 8, 10), np.uint8))) as (url, _),
        pytest.raises(ServerError, match=r"used_mask has size \[6, 8, 10\]; \[3, 4, 5\] is"),
    ):
        ask(url, mask=mask, spacing=2)


@BOTH
@pytest.mark.parametrize("more", [{"size": [4, 4, 4]}, {"spacing": [1, 2, 0]}])
def test_an_image_unlike_its_report(ask: Callable[..., Any], more: dict[str, Any]) -> None:
    with (
        fake_server(once(**DONE, image=IMAGE, report=report(**more))) as (url, _),
        pytest.raises(ServerError, match=r"\[4, 4, 4\] is expected|spacing \[1, 2, 0\]"),
    ):
        ask(url)


@pytest.mark.parametrize("shape", [[2**40] * 3, [-1, -1, 4], [-7], [64, 64, 64], [0, 4, 5]])
def test_a_shape_beyond_the_shared_memory(shape: list[int]) -> None:
    region = Region(PooledServer("here:1", None), None, "mini.stream", {"mask": MASK})
    region._memory = mmap.mmap(-1, region._size)
    result: Any = SimpleNamespace(get_output=lambda name: SimpleNamespace(shape=shape))
    with pytest.raises(ServerError, match="the server's image "):
        read_tensor(region.read(result), "image", np.int16, 3)


BOMBS = {
    "long": (json.dumps({**REPORT, "x": "a" * 2**20}), "more than the 1048576 bytes"),
    "deep": ("[" * 100_000 + "]" * 100_000, "nested deeper than 16"),
    "deeper than a report": (report(x=json.loads("[" * 20 + "]" * 20)), "nested deeper than 16"),
    "huge": (report().replace(": 1,", f": {'9' * 5000},"), "a number of 5000 digits"),
    "NaN": (report(x=math.nan), "it has NaN"),
    "infinite": (report().replace(": 1,", ": 1e999,"), "exceeds the range of a double"),
    "a list": ("[]", "it is a list; an object is expected"),
    "null": ("null", "it is null; an object"),
    "no JSON": ("{", "cannot be read: Expecting property name"),
    "no UTF-8": (b'{"a": "\xff"}', "cannot be read: 'utf-8' codec"),
    "empty": ({"report": ("UINT8", [0], b"")}, r"report is uint8 \[0\]"),
    "no seed": (json.dumps({"variant": "mini", "modality": "ct"}), "report has no 'seed'"),
    "seed": (report(seed="1"), "report.seed is '1'; a whole number is expected"),
    "truth": (report(seed=True), "report.seed is True; a whole number is expected"),
    "spacing": (report(spacing=[1, 2]), r"report.spacing is \[1, 2\]; 3 items are expected"),
    "spacings": (report(spacing=[1, 2, "3"]), r"report.spacing\[2\] is '3'; a whole number or"),
    "warnings": (report(warnings="all"), "report.warnings is 'all'; a list is expected"),
    "fidelity": (report(fidelity=[]), r"report.fidelity is \[\]; an object is expected"),
    "versions": (report(versions={"maisi": 1}), "report.versions.maisi is 1; a text"),
    "weights": (report(weights=7), "report.weights is 7; an object"),
}


@BOTH
@pytest.mark.parametrize("kind", BOMBS)
def test_a_report_that_is_a_bomb(ask: Callable[..., Any], kind: str) -> None:
    content, sentence = BOMBS[kind]
    parts = content if isinstance(content, dict) else {"report": content}
    with (
        fake_server(once(**DONE, image=IMAGE, **parts)) as (url, _),
        pytest.raises(ServerError, match=sentence) as caught,
    ):
        ask(url, size=[3, 4, 5])
    one_line(caught.value)


@BOTH
@pytest.mark.parametrize("key", ["padded_size", "labels", "expected_gb", "solver", "body_added"])
def test_a_check_without_what_it_should_say(ask: Callable[..., Any], key: str) -> None:
    whole = once(**DONE, report=json.dumps(CHECK))
    part = once(**DONE, report=json.dumps({k: v for k, v in CHECK.items() if k != key}))
    configs = [model_config.ModelConfig(name="mini.stream", input=[{"name": "size"}])]
    with fake_server(whole, configs) as (url, _):
        assert ask(url, call="check", size=[3, 4, 5]) == CHECK
    with (
        fake_server(part, configs) as (url, _),
        pytest.raises(ServerError, match=f"report has no '{key}'; one is expected"),
    ):
        ask(url, call="check", size=[3, 4, 5])


@BOTH
def test_a_message_beyond_what_was_asked_for(ask: Callable[..., Any]) -> None:
    large = np.zeros((200, 200, 100), np.int16)
    with (
        fake_server(once(**DONE, image=large, report=report())) as (url, _),
        pytest.raises(ServerError, match=r"larger than max|has size \[200, 200, 100\]"),
    ):
        ask(url, size=[3, 4, 5])


def test_the_largest_answer_to_a_request() -> None:
    def limit(**inputs: Any) -> int:
        return answer_bytes({name: np.array(value) for name, value in inputs.items()})

    assert limit(size=[512, 512, 768]) == 3 * 512 * 512 * 768 + (2 << 20)
    assert limit(mask=MASK) == 3 * 60 + (2 << 20)
    assert limit() == limit(size=[1 << 20] * 3) == limit(size=[-1, 4, 4]) == 2**31 - 1


@BOTH
def test_what_is_compressed_is_not_unpacked(ask: Callable[..., Any]) -> None:
    answer = once(**DONE, image=IMAGE, report=report())
    with (
        fake_server(answer, compression=grpc.Compression.Gzip) as (url, _),
        pytest.raises(MaisiError, match="gzip") as caught,
    ):
        ask(url, size=[3, 4, 5], retries=0)
    one_line(caught.value)


@BOTH
def test_progress_for_ever_ends_with_the_time(
    ask: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    cancelled = threading.Event()

    def answer(request: pb.ModelInferRequest, context: grpc.ServicerContext) -> Iterator[Any]:
        context.add_callback(cancelled.set)
        while context.is_active():
            yield progress(0.5)

    def note(event: Progress) -> None:
        events.append(event)
        if len(events) == 10:  # the time is over
            clock = SimpleNamespace(monotonic=lambda: time.monotonic() + 2 * PATIENCE)
            monkeypatch.setattr("maisi_client._transport.errors.time", clock)

    events: list[Progress] = []
    with (
        fake_server(answer) as (url, requests),
        pytest.raises(Timeout, match="did not finish the request in time"),
    ):
        ask(url, size=[3, 4, 5], on_progress=note)
    assert len(events) == 10 and len(requests) == 1
    assert cancelled.wait(PATIENCE)


def test_a_slow_reader_holds_no_more_than_a_few_messages() -> None:
    sent_count = 0

    def answer(request: pb.ModelInferRequest, context: grpc.ServicerContext) -> Iterator[Any]:
        nonlocal sent_count
        while context.is_active():
            sent_count += 1
            yield message(stage="a" * 2**20, progress=np.array([0.5], np.float32))

    with fake_server(answer) as (url, _), Client(url) as client:
        events = client.stream(size=[3, 4, 5])
        next(events)
        time.sleep(2)  # in which it could say thousands
        assert sent_count < 50
        for _ in range(100):
            next(events)
        assert sent_count < 150
        events.close()


@BOTH
def test_a_server_that_sends_more_after_its_final_message(ask: Callable[..., Any]) -> None:
    if ask is asynchronous:
        pytest.skip("tritonclient's asyncio stream knows no last message but its end")

    def answer(request: pb.ModelInferRequest, context: grpc.ServicerContext) -> Iterator[Any]:
        yield volume(request)
        yield message(final=True)
        while context.is_active():
            yield progress(0.5)

    with fake_server(answer) as (url, _):
        assert ask(url, size=[3, 4, 5]).image.shape == (3, 4, 5)


@BOTH
@pytest.mark.parametrize("parts", [[None], [progress(0.5), None]])
def test_a_stream_that_just_ends(ask: Callable[..., Any], parts: list[Any]) -> None:
    with (
        fake_server(lambda request, context: iter(parts)) as (url, _),
        pytest.raises(ServerUnavailable, match=r"was lost: it ended$"),
    ):
        ask(url, size=[3, 4, 5], retries=0)


@pytest.mark.parametrize(
    ("claimed", "expected"),
    [(math.nan, 0), (-1, 0), (1e9, 1), (math.inf, 1), (-math.inf, 0), (0.5, 0.5)],
)
def test_progress_is_from_0_to_1(claimed: float, expected: float) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    def answer(request: pb.ModelInferRequest, context: grpc.ServicerContext) -> Iterator[Any]:
        yield progress(0.9)
        yield progress(claimed)
        yield volume(request)
        yield message(final=True)

    fractions: list[float] = []
    out = Terminal()
    with fake_server(answer) as (url, _), Client(url) as client, Bar(out) as bar:
        for event in client.stream(size=[3, 4, 5]):
            if isinstance(event, Progress):
                fractions.append(event.fraction)
                bar(event)
    assert fractions == [pytest.approx(0.9), expected, 1]
    assert all(len(line) < 80 for line in out.getvalue().split("\r"))


@BOTH
@pytest.mark.parametrize("kind", ["stream", "status"])
def test_an_engine_that_failed_is_asked_again(
    ask: Callable[..., Any], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("maisi_client._transport.pool._REST_SECONDS", 0.01)

    def failing(times: int) -> Answer:
        def answer(request: pb.ModelInferRequest, context: grpc.ServicerContext) -> Iterator[Any]:
            seeds.append(request.raw_input_contents)
            if len(seeds) > times:
                yield volume(request)
                yield message(final=True)
            elif kind == "stream":
                yield progress(0.5)
                yield pb.ModelStreamInferResponse(error_message=f"[engine_failed] {FAILED}")
            else:
                context.abort(grpc.StatusCode.INTERNAL, f"[internal] {FAILED}")

        seeds: list[Any] = []
        return answer

    with fake_server(failing(1)) as (url, requests):
        assert isinstance(ask(url, size=[3, 4, 5]), Volume)
        assert requests[0].raw_input_contents == requests[1].raw_input_contents  # the seed, too
    with fake_server(failing(99)) as (url, requests):
        with pytest.raises(ServerError, match=f"^{FAILED}$") as caught:
            ask(url, size=[3, 4, 5], retries=2)
        assert type(caught.value) is ServerError
        assert caught.value.kind == ("engine_failed" if kind == "stream" else "internal")
        assert len(requests) == 3
    monkeypatch.setattr("random.random", lambda: 0.5)  # the first server is asked first
    monkeypatch.setattr("maisi_client._transport.pool._REST_SECONDS", 60)  # and rests to the end
    with fake_server(failing(99)) as (bad, tried), fake_server(failing(0)) as (good, _):
        assert isinstance(ask(f"{bad},{good}", size=[3, 4, 5], retries=0), Volume)
        assert len(tried) == 1


def test_a_dataset_asks_again_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("maisi_client._transport.pool._REST_SECONDS", 0.01)

    def answer(request: pb.ModelInferRequest, context: grpc.ServicerContext) -> Iterator[Any]:
        if len(requests) == 1:
            yield pb.ModelStreamInferResponse(error_message=f"[engine_failed] {FAILED}")
        else:
            yield volume(request)
            yield message(final=True)

    row = Row("a", {"size": [3, 4, 5], "seed": 4})
    with fake_server(answer) as (url, requests), Client(url) as client:
        assert insist(row, client, 1, threading.Event()).report["seed"] == 4


def test_a_status_of_a_lookup_is_judged_alike() -> None:
    for status, kind in (("INTERNAL", "internal"), ("UNKNOWN", "unexpected")):
        error = explain(InferenceServerException("failed", f"StatusCode.{status}"), "here:1")
        assert isinstance(error, ServerError) and error.kind == kind


@BOTH
def test_what_is_refused_is_not_asked_again(ask: Callable[..., Any]) -> None:
    def answer(request: pb.ModelInferRequest, context: grpc.ServicerContext) -> Iterator[Any]:
        yield pb.ModelStreamInferResponse(
            error_message="[invalid_request] steps: 0 is not from 1 to 1000"
        )

    with fake_server(answer) as (url, requests), pytest.raises(InvalidRequest, match="steps: 0"):
        ask(url, size=[3, 4, 5])
    assert len(requests) == 1


@BOTH
def test_text_of_an_error_is_printable(ask: Callable[..., Any]) -> None:
    text = ESCAPES[:-1]  # protobuf takes no half of a surrogate pair

    def answer(request: pb.ModelInferRequest, context: grpc.ServicerContext) -> Iterator[Any]:
        yield pb.ModelStreamInferResponse(
            error_message=f"[invalid_request] steps: {text}{'a' * 10**6}"
        )

    with fake_server(answer) as (url, _), pytest.raises(InvalidRequest) as caught:
        ask(url, size=[3, 4, 5])
    assert one_line(caught.value).startswith("steps: ?[2J? ???")
    assert caught.value.__cause__ is None and caught.value.__context__ is None


@BOTH
def test_text_of_an_answer_is_printable(ask: Callable[..., Any]) -> None:
    def answer(request: pb.ModelInferRequest, context: grpc.ServicerContext) -> Iterator[Any]:
        yield message(stage=b"\xff" + ESCAPES[:-1].encode(), progress=DONE["progress"])
        fields = {"warnings": [ESCAPES], "modality": f"mri{ESCAPES}", ESCAPES: ESCAPES}
        yield message(**DONE, image=IMAGE, report=report(**fields))
        yield message(final=True)

    events: list[Progress] = []
    with fake_server(answer) as (url, _):
        result = ask(url, size=[3, 4, 5], on_progress=events.append)
    assert events[0].stage.isprintable() and len(events) == 2
    texts = [result.report["modality"], *result.report["warnings"], *result.report]
    assert all(text.isprintable() for text in texts)
    assert result.image.header["descrip"].item().decode().isprintable()


def config(text: str, name: str = "mini") -> model_config.ModelConfig:
    ensemble = model_config.ModelConfig(name=name, platform="ensemble")
    ensemble.parameters["variant"].string_value = text
    return ensemble


@BOTH
def test_text_of_a_variant_is_printable(ask: Callable[..., Any]) -> None:
    fields = {"labels": {"22": ESCAPES}, "modalities": {ESCAPES: 9}, "license": ESCAPES}
    name = f"mini{ESCAPES[:-1]}"
    with fake_server(configs=[config(json.dumps({**VARIANT, **fields}), name)]) as (url, _):
        [(variant_name, variant)] = ask(url, call="info").items()
    for text in (variant_name, variant.license, variant.labels[22], *variant.modalities):
        assert text.isprintable()
    wrong = model_config.ModelConfig(name="mini.stream", input=[{"name": ESCAPES[:-1]}])
    with fake_server(configs=[wrong]) as (url, _), pytest.raises(InvalidRequest) as caught:
        ask(url, augment=True)
    assert "mini does not have this input; it has ?[2J?" in one_line(caught.value)


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ({"x": "a" * 2**20}, "cannot be read: it has more than the 1048576 bytes"),
        ({"x": math.nan}, "cannot be read: it has NaN"),
        ({"name": 3}, "variant.name is 3; a text is expected"),
        ({"modalities": ["mri_t1"]}, r"variant.modalities is \['mri_t1'\]; an object"),
        ({"modalities": {"mri_t1": "9"}}, "variant.modalities.mri_t1 is '9'; a whole number"),
        ({"labels": {"brain": "22"}}, "cannot be read: invalid literal for int"),
        ({"labels": {"900": "brain"}}, r"labels \[900\]; ids from 0 to 255"),
        ({"labels": {"22": {}}}, r"variant.labels.22 is \{\}; a text"),
        ({"size": {}}, "variant.size has no 'min'"),
        ({"size": {**VARIANT["size"], "multiple": 0}}, "sides of 1 to 32767 voxels are expected"),
        ({"size": {**VARIANT["size"], "max": [10**12] * 3}}, "sides of 1 to 32767 voxels"),
        ({"spacing": {"min": [0, 1, 1], "max": [5] * 3}}, "more than 0 mm is expected"),
        ({"limits": {"steps": [1]}}, r"variant.limits.steps is \[1\]; 2 items"),
        ({"limits": {"steps?": "all"}}, "variant.limits.steps. is 'all'; a list"),
        ({"presets": {"a": {}}}, "variant.presets.a has no 'modality'"),
        ({"defaults": {}}, "variant.defaults has no 'modality'"),
        ({"regions": []}, r"variant.regions is \[\]; an object"),
        ({"solvers": "euler"}, "variant.solvers is 'euler'; a list"),
        ({"mask_generation": 7}, "variant.mask_generation is 7; an object"),
        (
            {"mask_generation": {"sizes": [{"name": "liver"}]}},
            r"variant.mask_generation.sizes\[0\] has no 'default'",
        ),
    ],
)
def test_a_variant_that_is_none(more: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ServerError, match=f"the server's variant.*{sentence}|{sentence}") as caught:
        parse_variant(json.dumps({**VARIANT, **more}))
    one_line(caught.value)
    assert parse_variant(json.dumps(VARIANT)).labels == {22: "brain"}


@BOTH
def test_a_configuration_of_megabytes(ask: Callable[..., Any]) -> None:
    with (
        fake_server(configs=[config(json.dumps({**VARIANT, "x": "a" * (5 << 20)}))]) as (url, _),
        pytest.raises(ServerError, match=r"larger than max|more than the 1048576 bytes"),
    ):
        ask(url, call="info")


@pytest.mark.parametrize(
    ("command", "tensors"),
    [
        (["generate", "--size", "3,4,5"], {**DONE, "image": IMAGE[0], "report": report()}),
        (["generate", "--size", "3,4,5"], {**DONE, "image": IMAGE, "report": "[" * 100_000}),
        (["generate", "--size", "3,4,5"], {**DONE, "image": IMAGE, "report": '"\\u001b[2J"'}),
        (["generate", "--size", "3,4,5"], {"stage": ESCAPES[:-1]}),
        (["check", "--size", "3,4,5"], {**DONE, "report": report(warnings=[ESCAPES])}),
    ],
)
def test_a_command_ends_with_one_line(
    command: list[str],
    tensors: dict[str, Any],
    tmp_path: Any,
    capsys: pytest.CaptureFixture[str],
) -> None:
    configs = [model_config.ModelConfig(name="mini.stream", input=[{"name": "size"}])]
    more = ["-o", str(tmp_path / "a.nii.gz")] if command[0] == "generate" else []
    with fake_server(once(**tensors), configs) as (url, _):
        assert main([*command, "--url", url, *more]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.endswith("\n") and err[:-1].isprintable()
    assert list(tmp_path.iterdir()) == []
