"""The GPUs that networks are placed on, and Triton's options for them."""

from __future__ import annotations

import ctypes
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tritonclient.grpc as grpc
from google.protobuf import text_format  # type: ignore[import-untyped]
from tritonclient.grpc import model_config_pb2 as pb

from export import model_configs, variant
from server import gpus, host
from server.address import Address
from server.launch import Launch, command
from server.layout import (
    UNLIMITED,
    Folders,
    Limits,
    expect_no_plans,
    model_names,
    write_models,
)
from server.settings import CannotServe, gpu_tensors
from tests.conftest import PATIENCE, ROOT, Server
from tests.server.mini import sized

MINI = ROOT / "model_repository"


def driver(count: int, status: int = 0) -> Callable[[str], Any]:
    """Return what loads the driver of a machine with `count` GPUs; cuInit returns `status`."""

    class Library:
        def cuInit(self, flags: int) -> int:
            return status

        def cuDeviceGetCount(self, number: Any) -> int:
            ctypes.cast(number, ctypes.POINTER(ctypes.c_int))[0] = count
            return 0

    return lambda name: Library()


def no_driver(name: str) -> Any:
    raise OSError(f"{name}: cannot open shared object file")


@pytest.mark.parametrize(
    ("text", "numbers"), [("", ()), ("none", ()), ("0", (0,)), ("1,0", (1, 0)), ("10", (10,))]
)
def test_numbers_are_read(text: str, numbers: tuple[int, ...]) -> None:
    assert gpus.parse(text) == numbers


@pytest.mark.parametrize("text", ["0,0", "1,2,01", "-1", "a", "0,", "1.5", "0 1", "²", "all"])
def test_what_names_no_gpus_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"^--gpus: '.*', but .* expected( once)?\.$"):
        gpus.parse(text)


@pytest.mark.parametrize(
    ("load", "sentence"),
    [
        (driver(1), "--gpus: 0,1, but numbers below 1, the number of GPUs, are expected."),
        (driver(0), "--gpus: 0,1, but numbers below 0, the number of GPUs, are expected."),
        (driver(2, 100), "--gpus: 0,1, but no GPU can be used: CUDA's driver failed with"),
        (no_driver, "--gpus: 0,1, but no GPU can be used: libcuda.so.1: cannot open"),
    ],
)
def test_a_gpu_that_is_not_there_is_refused(load: Callable[[str], Any], sentence: str) -> None:
    with pytest.raises(ValueError) as caught:
        gpus.check((0, 1), load)
    assert str(caught.value).startswith(sentence)
    gpus.check((), load)
    gpus.check((1, 0), driver(2))


def test_without_a_choice_triton_takes_all() -> None:
    assert gpus.select(None, driver(3)) == (0, 1, 2)
    assert gpus.select(None, no_driver) == gpus.select((), driver(3)) == ()
    assert gpus.select((2,), no_driver) == (2,)


@pytest.mark.parametrize("numbers", [(), (3,), (0, 1)])
def test_a_network_is_on_each_gpu_and_the_stages_keep_up(
    tmp_path: Path, numbers: tuple[int, ...]
) -> None:
    write_models(MINI, UNLIMITED, numbers, tmp_path)
    devices = max(1, len(numbers))
    counts = {"sampler": devices, "decoder": devices, "condition": 1, "stream": 1}
    for path in MINI.glob("*/config.pbtxt"):
        before = text_format.Parse(path.read_text(), pb.ModelConfig())
        after = text_format.Parse((tmp_path / path.relative_to(MINI)).read_text(), pb.ModelConfig())
        short = after.name.partition(".")[2]
        if short == "stream":
            assert after.parameters.pop("devices").string_value == str(devices)
        if short in counts:
            group = pb.ModelInstanceGroup(kind="KIND_CPU", count=counts[short])
        else:
            kind = "KIND_GPU" if numbers else "KIND_CPU"
            group = pb.ModelInstanceGroup(kind=kind, count=1, gpus=numbers)
        assert list(after.instance_group) == ([group] if short else [])
        del before.instance_group[:], after.instance_group[:]
        assert after == before


def test_plans_that_are_served_are_not_placed_on_the_cpu(tmp_path: Path) -> None:
    models = tmp_path / "models"
    for number, file in ((1, "model.onnx"), (2, "model.plan")):
        (models / "a.flow" / str(number)).mkdir(parents=True)
        (models / "a.flow" / str(number) / file).touch()
    (models / "a.flow" / "config.pbtxt").write_text('name: "a.flow" backend: "tensorrt_rtx"')
    sentence = r"^--gpus: none, but a\.flow has plans, which need a GPU\.$"
    for version in (None, 2):  # the newest
        with pytest.raises(ValueError, match=sentence):
            expect_no_plans(models, ["a.flow"], version)
    # Neither another variant nor another version needs the plan.
    expect_no_plans(models, [], None)
    expect_no_plans(models, ["a.flow"], 1)
    write_models(models, UNLIMITED, (), tmp_path / "written")
    assert (tmp_path / "written" / "a.flow" / "1" / "model.onnx").exists()


def test_a_configuration_that_cannot_be_parsed_is_named(tmp_path: Path) -> None:
    (tmp_path / "models" / "a.flow").mkdir(parents=True)
    (tmp_path / "models" / "a.flow" / "config.pbtxt").write_text('name: "a.flow" plat: "x"')
    with pytest.raises(ValueError, match=r"^a\.flow/config\.pbtxt is no configuration .*plat"):
        write_models(tmp_path / "models", UNLIMITED, (), tmp_path / "written")
    with pytest.raises(ValueError, match=r"^a\.flow/config\.pbtxt is no configuration"):
        gpus.pool_bytes(tmp_path / "models", ["a.flow"])


def test_a_network_of_an_earlier_version_takes_no_pool(tmp_path: Path) -> None:
    (tmp_path / "a.flow").mkdir()
    (tmp_path / "a.flow" / "config.pbtxt").write_text('name: "a.flow" backend: "onnxruntime"')
    assert gpus.pool_bytes(tmp_path, ["a.flow"]) == 64 << 20


def write_configs(folder: Path, name: str, precision: str) -> Path:
    for model, config in model_configs.configs(
        variant.load(name), {}, "tensorrt", precision
    ).items():
        (folder / model).mkdir(parents=True)
        (folder / model / "config.pbtxt").write_text(text_format.MessageToString(config))
    return folder


def test_triton_keeps_two_requests_tensors_of_the_largest_call_and_their_copies(
    tmp_path: Path,
) -> None:
    # Of mini, in float32: two rows of 32 channels, and four latents of 4, for 256 x 256 x 128.
    step = (2 * 32 + 4 * 4) * 4 * 256 * 256 * 128 // 4**3
    assert gpus.pool_bytes(MINI, model_names(MINI, [])) == 4 * step == 167_772_160
    # Without masks there is no embedding: then Triton's own 64 MiB do.
    assert gpus.pool_bytes(MINI, ["mini", "mini.flow"]) == 64 << 20
    ct = write_configs(tmp_path / "ct", "rflow-ct", "fp16")
    voxels = variant.load("rflow-ct").serving["size"]["max_voxels"] // 4**3
    # Half of it in float16, the embedding alone.
    assert gpus.pool_bytes(ct, model_names(ct, [])) == 4 * voxels * (2 * 64 * 2 + 4 * 4 * 4)
    write_models(ct, Limits(voxels=256**3), (0,), tmp_path / "less")
    less = tmp_path / "less"
    assert gpus.pool_bytes(less, model_names(less, [])) == 4 * 64**3 * (2 * 64 * 2 + 4 * 4 * 4)


def test_the_command_names_each_gpu_and_none_where_none_is_used() -> None:
    def pools(*numbers: int) -> list[str]:
        folders = Folders(*[MINI] * 4)
        address = Address("127.0.0.1", 1, 2, 3, 4)
        launch = Launch(MINI, folders, model_names(MINI, []), address, "key", "key", gpus=numbers)
        return [word for word in command(launch) if "cuda" in word]

    flag = "--cuda-memory-pool-byte-size"
    assert pools(0, 2) == [f"{flag}=0:167772160", f"{flag}=2:167772160"]
    assert pools() == []


def test_under_wsl_models_share_no_memory_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MAISI_GPU_TENSORS", raising=False)
    monkeypatch.setattr(host, "is_wsl", lambda: False)
    assert gpu_tensors() == "1"
    monkeypatch.setattr(host, "is_wsl", lambda: True)
    assert gpu_tensors() == "0"
    monkeypatch.setenv("MAISI_GPU_TENSORS", "1")
    assert gpu_tensors() == "1"
    monkeypatch.setenv("MAISI_GPU_TENSORS", "no")
    with pytest.raises(CannotServe, match=r"^MAISI_GPU_TENSORS: 'no', but 0 or 1 is expected\.$"):
        gpu_tensors()


def test_without_gpus_a_volume_is_made_on_the_cpu(
    start_server: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAISI_GPU_TENSORS", "0")  # which asks for tensors on the CPU
    server = start_server(None, "--gpus=none")
    with grpc.InferenceServerClient(server.grpc) as client:
        assert client.infer("mini", sized(32)).as_numpy("image").shape == (32, 32, 32)
        for model in ("mini.flow", "mini.vae_decoder", "mini.stream"):
            config = client.get_model_config(model, as_json=True)["config"]
            (group,) = config["instance_group"]
            assert (group["kind"], group["count"]) == ("KIND_CPU", 1)
        assert json.loads(config["parameters"]["devices"]["string_value"]) == 1


@pytest.mark.parametrize("option", ["--gpus=0,0", "--gpus=99"])
def test_a_wrong_choice_ends_with_a_sentence(
    start_server: Callable[..., Server], option: str
) -> None:
    server = start_server(None, option, ready=False)
    assert server.process.wait(PATIENCE) == 1
    (line,) = server.log.splitlines()
    assert line.startswith("serve: --gpus: ") and line.endswith(".")
