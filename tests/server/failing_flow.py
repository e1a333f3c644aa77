"""Mini with flows that fail or hang where a file of the test's says so."""

from __future__ import annotations

import shutil
from pathlib import Path

from google.protobuf import text_format  # type: ignore[import-untyped]
from tritonclient.grpc import model_config_pb2 as pb

from bench import servers
from tests.conftest import ROOT

# A flow that returns its inputs, by the voxels along the volume's side:
# 32: fails once the file `broken` is beside the model, and hangs once `hanging` is, until the model
#     is loaded again; says that it has no memory while `short` is there
# 36 to 60: always fails
# 64: takes 0.4 s a call
FLOW = """
import json
import time
from pathlib import Path
import triton_python_backend_utils as pb_utils

LOADED = time.time()

def file(name):
    return Path(__file__).with_name(name)

def is_newer(name):
    return file(name).exists() and LOADED < file(name).stat().st_mtime

class TritonPythonModel:
    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        parameters = json.loads(request.parameters() or "{}")
        if "maisi_token" not in parameters:
            error = pb_utils.TritonError("only the stages of mini call it")
            return pb_utils.InferenceResponse(error=error)
        if "maisi_prepare" in parameters:
            return pb_utils.InferenceResponse([])
        latent, z = (
            pb_utils.get_input_tensor_by_name(request, name).as_numpy() for name in ("latent", "z")
        )
        side = latent.shape[-1]
        if 8 < side < 16 or (side == 8 and is_newer("broken")):
            return pb_utils.InferenceResponse(error=pb_utils.TritonError("a GPU error"))
        if side == 8 and file("short").exists():
            code = pb_utils.TritonError.UNAVAILABLE
            error = pb_utils.TritonError("out of memory: 9 GB; try again in 3 s", code)
            return pb_utils.InferenceResponse(error=error)
        if side == 8 and is_newer("hanging"):
            time.sleep(600)
        if side == 16:
            time.sleep(0.4)
        tensors = [pb_utils.Tensor("next_latent", latent), pb_utils.Tensor("velocity", z)]
        return pb_utils.InferenceResponse(tensors)
"""


def write(models: Path) -> Path:
    """Write mini with the flow above in place of its own; return `models`."""
    for source in (ROOT / "model_repository").glob("mini*"):
        shutil.copytree(source, models / source.name)
    for name in ("mini.flow", "mini.flow_masked"):
        folder = models / name
        text = (folder / "config.pbtxt").read_text()
        config = text_format.Parse(text, pb.ModelConfig())
        shutil.rmtree(folder)
        servers.write_stand_in(folder, config, FLOW)
    return models
