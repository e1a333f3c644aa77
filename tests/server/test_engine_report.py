"""The engines of each variant in the ready line, and the warnings of GPUs that are not used."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import tritonclient.grpc as grpc
from google.protobuf import text_format  # type: ignore[import-untyped]
from maisi_client import Client
from tritonclient.grpc import model_config_pb2 as pb

from backends.engines.openvino import has_bfloat16
from server import engine_report
from tests.conftest import ROOT, Server


def network(model: str, engine: str, device: str, unused: str = "") -> str:
    labels = f'device="{device}",engine="{engine}",model="{model}",unused="{unused}"'
    return f"maisi_network_engine{{{labels}}} 1\n"


def test_every_engine_of_a_variant_is_listed_and_every_reason_once() -> None:
    reason = r"GPU 0: the \"provider\" is missing"
    metrics = "".join(
        [
            "# HELP maisi_network_engine What runs a network\n",
            network("mini.flow", "ONNXRuntime", "GPU 1"),
            network("mini.flow", "ONNXRuntime", "GPU 0"),
            network("mini.vae_decoder", "OpenVINO", "CPU", reason),
            network("big.v2.flow", "TensorRT", "GPU 0"),
            network("mini.mask_encoder", "OpenVINO", "CPU", reason),
        ]
    )
    line = "mini:ONNXRuntime/GPU0+ONNXRuntime/GPU1+OpenVINO/CPU,big.v2:TensorRT/GPU0"
    assert engine_report.engines(metrics, ["mini", "big.v2"]) == line
    assert engine_report.unused_gpus(metrics) == [
        'mini.mask_encoder, mini.vae_decoder run on the CPU: GPU 0: the "provider" is missing'
    ]


def calls(server: Server) -> list[int]:
    """Return the numbers of calls of the flow and of the decoder of mini."""
    with grpc.InferenceServerClient(server.grpc) as client:
        return [
            client.get_inference_statistics(network).model_stats[0].execution_count
            for network in ("mini.flow_masked", "mini.vae_decoder")
        ]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("bfloat16", "published", "levels"),
    [
        (False, "ONNXRuntime", 1),
        pytest.param(
            True,
            "OpenVINO-bfloat16",
            30,
            marks=pytest.mark.skipif(not has_bfloat16(), reason="no bfloat16 here"),
        ),
    ],
)
def test_another_engine_makes_openvinos_volume_to_some_grey_levels(
    server: Server,
    start_server: Callable[..., Server],
    tmp_path: Path,
    bfloat16: bool,
    published: str,
    levels: int,
) -> None:
    if bfloat16:
        forced = start_server(None, "--bfloat16")
    else:
        shutil.copytree(ROOT / "model_repository", tmp_path / "models")
        for path in (tmp_path / "models").glob("*/config.pbtxt"):
            config = text_format.Parse(path.read_text(), pb.ModelConfig())
            if config.backend in ("onnxruntime", "slabs"):
                config.parameters["engine"].string_value = "onnxruntime"
                path.write_text(text_format.MessageToString(config))
        forced = start_server(tmp_path / "models")
    assert re.search(rf" engines=mini:{published}/CPU$", forced.line.rstrip())
    assert re.search(r" engines=mini:OpenVINO/CPU$", server.line.rstrip())
    mask = np.zeros((48, 40, 32), np.uint8)
    mask[12:36, 10:30, 8:24] = 22
    volumes = []
    for address in (server.grpc, forced.grpc):
        with Client(address) as client:
            image = nib.Nifti1Image(mask, np.diag([3, 3, 3, 1]))
            volumes.append(client.generate(image, seed=5, steps=4))
    assert [volume.report["bfloat16"] for volume in volumes] == [False, bfloat16]
    before = calls(forced)
    with Client(forced.grpc) as client:
        client.generate(image, seed=6, steps=4)
    # OpenVINO compiles for a size, which is announced; the stream knows that ONNX Runtime does not.
    announced = bfloat16
    assert [after - count for after, count in zip(calls(forced), before, strict=True)] == [
        *(4 + announced, 1 + announced)
    ]
    openvino, other = (np.asarray(volume.image.dataobj, np.int32) for volume in volumes)
    assert np.ptp(openvino) > 100
    assert np.abs(openvino - other).max() <= levels
