"""The trace of a request, as a real receiver of OTLP gets it from a real server."""

from __future__ import annotations

import http.client
import json
import secrets
from contextlib import closing

import maisi_client
import pytest
import tritonclient.grpc as grpc
from opentelemetry.sdk.trace import TracerProvider

from backends.maisi.tracing import Caller, parse
from server.settings import CannotServe, trace_url
from tests.conftest import PATIENCE
from tests.otlp import receiver
from tests.server.mini import tensors
from tests.server.ports import free_ports

STAGES = ("waiting", "condition", "sampler", "decoder")
REQUEST = {"size": [32, 32, 32], "steps": 2, "seed": 1}


def header(flags="01"):
    trace_id, span_id = secrets.token_hex(16), secrets.token_hex(8)
    return trace_id, span_id, f"00-{trace_id}-{span_id}-{flags}"


@pytest.fixture(scope="module")
def spans():
    with receiver() as received:
        yield received


@pytest.fixture(scope="module")
def traced(module_server, spans):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")  # milliseconds
        return module_server(None, f"--trace-endpoint={spans.endpoint}")


@pytest.mark.slow
def test_a_request_is_one_tree_from_the_client_to_the_stages(traced, spans, eventually):
    tracer = TracerProvider().get_tracer("test")
    with maisi_client.Client(traced.grpc) as client, tracer.start_as_current_span("caller") as own:
        volume = client.generate(**REQUEST)
    context = own.get_span_context()
    trace_id, root = f"{context.trace_id:032x}", f"{context.span_id:016x}"
    assert volume.report["trace_id"] == trace_id
    names = {"InferRequest", "mini.stream", "compute", "request", *STAGES}
    eventually(lambda: set(spans.trace(trace_id)) == names)
    trace = spans.trace(trace_id)
    assert trace["InferRequest"].parent == root
    assert trace["mini.stream"].parent == trace["InferRequest"].span_id
    assert trace["request"].parent == trace["mini.stream"].span_id
    assert {trace[stage].parent for stage in STAGES} == {trace["request"].span_id}
    # The stages follow each other within the request, which has nothing else of note.
    stages = [trace[stage] for stage in STAGES]
    assert stages == sorted(stages, key=lambda span: span.start)
    total = sum(span.seconds for span in stages)
    assert 0.5 * trace["request"].seconds < total <= trace["request"].seconds + 1e-3
    assert trace["request"].end <= trace["InferRequest"].end + 0.1 * trace["request"].seconds
    for stage in ("sampler", "decoder"):
        # The server may make its own volume for a probe in between.
        parent = trace[stage].span_id
        paused = sum(span.seconds for span in spans.spans if span.parent == parent)
        seconds = trace[stage].seconds - paused
        assert seconds == pytest.approx(volume.report["seconds"][stage], rel=0.2)


@pytest.mark.slow
def test_the_stages_of_the_ensemble_are_below_its_models(traced, spans, eventually):
    trace_id, span_id, traceparent = header()
    with grpc.InferenceServerClient(traced.grpc) as client:
        headers = {"traceparent": traceparent}
        client.infer("mini", tensors(), headers=headers, client_timeout=PATIENCE)
    stages = ("condition", "sampler", "decoder")
    names = {"InferRequest", "mini", "compute", *stages, *(f"mini.{stage}" for stage in stages)}
    eventually(lambda: set(spans.trace(trace_id)) == names)
    trace = spans.trace(trace_id)
    assert trace["InferRequest"].parent == span_id
    for stage in stages:
        assert trace[f"mini.{stage}"].parent == trace["mini"].span_id
        assert trace[stage].parent == trace[f"mini.{stage}"].span_id
        assert trace[stage].seconds <= trace[f"mini.{stage}"].seconds


@pytest.mark.slow
@pytest.mark.parametrize("name", ["traceparent", "Traceparent"])  # HTTP/1.1 keeps the case
def test_a_request_over_http_is_traced_by_its_header(traced, spans, eventually, name):
    trace_id, span_id, traceparent = header()
    numbers = {"size": [32, 32, 32], "steps": [1]}
    inputs = [
        {"name": key, "datatype": "INT32", "shape": [len(data)], "data": data}
        for key, data in numbers.items()
    ]
    body = json.dumps({"inputs": inputs, "outputs": [{"name": "report"}]}).encode()
    connection = http.client.HTTPConnection(traced.http, timeout=PATIENCE)
    with closing(connection):
        connection.request("POST", "/v2/models/mini/infer", body, {name: traceparent})
        (report,) = json.load(connection.getresponse())["outputs"]
    assert json.loads(bytes(report["data"]))["trace_id"] == trace_id
    eventually(lambda: "decoder" in spans.trace(trace_id))
    assert spans.trace(trace_id)["InferRequest"].parent == span_id


@pytest.mark.slow
@pytest.mark.parametrize(
    "traceparent", ["garbage", 'a"b\\c', "00-" + "0" * 32 + "-1-01", "x" * 4000]
)
def test_a_wrong_traceparent_is_ignored(traced, traceparent):
    with grpc.InferenceServerClient(traced.grpc) as client:
        headers = {"traceparent": traceparent}
        result = client.infer("mini", tensors(steps=1), headers=headers, client_timeout=PATIENCE)
    assert b"trace_id" not in result.as_numpy("report").tobytes()


@pytest.mark.slow
def test_a_collector_that_is_down_changes_nothing(start_server):
    (port,) = free_ports(1)
    server = start_server(None, f"--trace-endpoint=http://127.0.0.1:{port}")
    trace_id, _, traceparent = header()
    with maisi_client.Client(server.grpc) as client:
        volume = client.generate(traceparent=traceparent, **REQUEST)
    assert volume.report["trace_id"] == trace_id
    assert server.stop() == 0


@pytest.mark.parametrize(
    ("traceparent", "sampled"),
    [
        ("00-" + "a" * 32 + "-" + "b" * 16 + "-01", True),
        ("00-" + "a" * 32 + "-" + "b" * 16 + "-00", False),
        ("01-" + "a" * 32 + "-" + "b" * 16 + "-03-more", True),
    ],
)
def test_a_traceparent_is_read(traceparent, sampled):
    assert parse(traceparent) == Caller("a" * 32, "b" * 16, sampled)


@pytest.mark.parametrize(
    "traceparent",
    [
        None,
        7,
        "",
        "00-" + "0" * 32 + "-" + "b" * 16 + "-01",
        "00-" + "a" * 32 + "-" + "0" * 16 + "-01",
        "00-" + "A" * 32 + "-" + "b" * 16 + "-01",
        "00-" + "a" * 32 + "-" + "b" * 16 + "-01-more",
        "ff-" + "a" * 32 + "-" + "b" * 16 + "-01",
    ],
)
def test_what_is_no_traceparent_has_no_caller(traceparent):
    assert parse(traceparent) is None


def test_the_endpoint_is_a_url():
    assert trace_url(None) == ""
    assert trace_url("http://a:4318/") == trace_url("http://a:4318") == "http://a:4318/v1/traces"
    for wrong in ("a:4318", "ftp://a", "http://", "http://a b", "http://a,level=OFF"):
        with pytest.raises(CannotServe, match=r"--trace-endpoint: .*HOST:PORT"):
            trace_url(wrong)
