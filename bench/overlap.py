"""How busy the server keeps an accelerator, by networks that only sleep and return arrays.

    scripts/bench overlap [--side 256] [--flow 0.25] [--decoder 0.15] [--in-flight 4] [--write]

The networks of mini are replaced by stand-ins that take the time of a GPU. Large latents and
embeddings are one voxel there, because a GPU keeps them in its memory. Everything else is real:
stages, queue, transfer and client. The defaults are an estimate for a data-centre GPU at 256³:
0.25 s for 30 steps and 0.15 s for the decoder. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from google.protobuf import text_format  # type: ignore[import-untyped]
from maisi_client import Client
from tritonclient.grpc import model_config_pb2 as pb

from bench import ROOT, page, servers
from bench.launcher import Server

_STEPS = 30
STAND_IN = """
import json
import time

import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def initialize(self, args):
        config = json.loads(args["model_config"])
        parameters = config["parameters"]
        self.seconds = float(parameters["seconds"]["string_value"])
        self.side = int(parameters["side"]["string_value"])
        self.outputs = config["output"]

    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        if "maisi_token" not in json.loads(request.parameters() or "{}"):
            error = pb_utils.TritonError("only the stages of mini call it")
            return pb_utils.InferenceResponse(error=error)
        end = time.monotonic() + self.seconds
        latent = pb_utils.get_input_tensor_by_name(request, "latent")
        sides = latent.shape()[2:] if latent else (1, 1, 1)
        if max(sides) > 16:
            sides = (1, 1, 1)
        image = [4 * side if side > 1 else self.side for side in sides]
        tensors = []
        for output in self.outputs:
            kind = pb_utils.triton_string_to_numpy(output["data_type"])
            shape = image if output["name"] == "image" else sides
            array = np.zeros((1, int(output["dims"][1]), *shape), kind)
            tensors.append(pb_utils.Tensor(output["name"], array))
        time.sleep(max(0, end - time.monotonic()))
        return pb_utils.InferenceResponse(tensors)
"""


def write_repository(folder: Path, side: int, seconds: dict[str, float]) -> None:
    """Write mini for volumes of `side`³ voxels; `seconds`: network -> the time of its stand-in."""
    for source in (ROOT / "model_repository").glob("mini*"):
        config = text_format.Parse((source / "config.pbtxt").read_text(), pb.ModelConfig())
        if "variant" in config.parameters:
            variant = json.loads(config.parameters["variant"].string_value)
            variant["size"] |= {"max": [side] * 3, "max_voxels": side**3}
            config.parameters["variant"].string_value = json.dumps(variant)
        network = source.name.removeprefix("mini.")
        if network in seconds:
            config.parameters["seconds"].string_value = str(seconds[network])
            config.parameters["side"].string_value = str(side)
            servers.write_stand_in(folder / source.name, config, STAND_IN)
        else:
            shutil.copytree(source, folder / source.name)
            (folder / source.name / "config.pbtxt").write_text(text_format.MessageToString(config))


def rate(url: str, side: int, in_flight: int, volumes: int, masked: bool) -> float:
    """Return the volumes per second that `in_flight` callers get."""
    picture = servers.picture((side, side, side)) if masked else None
    request: dict[str, Any] = {"mask": picture} if masked else {"size": [side] * 3}
    with Client(url) as client, ThreadPoolExecutor(in_flight) as pool:

        def volume(seed: int) -> None:
            client.generate(**request, modality="mri_t1", steps=_STEPS, seed=seed)

        list(pool.map(volume, range(in_flight)))  # not timed
        started = time.perf_counter()
        list(pool.map(volume, range(volumes)))
        return volumes / (time.perf_counter() - started)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit status."""
    parser = argparse.ArgumentParser(prog="scripts/bench overlap", description=__doc__)
    parser.add_argument("--side", type=int, default=256, help="voxels")
    parser.add_argument("--flow", type=float, default=0.25, help="seconds of 30 steps")
    parser.add_argument("--decoder", type=float, default=0.15, help="seconds")
    parser.add_argument("--in-flight", type=int, default=4, help="callers")
    parser.add_argument("--volumes", type=int, default=20, help="of a measurement")
    parser.add_argument("--repeat", type=int, default=3, help="medians of so many")
    parser.add_argument("--write", action="store_true", help="put the table into the page")
    options = parser.parse_args(arguments)
    step, side = options.flow / _STEPS, options.side
    seconds = {"flow": step, "flow_masked": step, "vae_decoder": options.decoder, "mask_encoder": 0}
    possible = 1 / (options.flow + options.decoder)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        write_repository(Path(folder, "models"), side, seconds)
        with Server(Path(folder, "models"), Path(folder, "log")) as server:
            for masked in (False, True):
                for in_flight in (1, options.in_flight):
                    rates = [
                        rate(server.grpc, side, in_flight, options.volumes, masked)
                        for _ in range(options.repeat)
                    ]
                    share = statistics.median(rates) / possible
                    rows.append({"masked": masked, "in_flight": in_flight, "share": share})
    text = (
        f"Networks that take {options.flow:g} s for {_STEPS} steps and {options.decoder:g} s for"
        f" the decoder at {side}³ allow {60 * possible:.0f} volumes a minute. Medians of"
        f" {options.repeat} runs of {options.volumes} volumes; client and server on one machine."
        "\n\n"
        + page.table(
            ["request", "in flight", "volumes/minute", "of what the networks allow"],
            [
                [
                    "mask" if row["masked"] else "image only",
                    str(row["in_flight"]),
                    f"{60 * possible * row['share']:.0f}",
                    f"{row['share']:.2f}",
                ]
                for row in rows
            ],
        )
    )
    print(text + "\n")
    print(json.dumps({"side": side, "rows": rows}))
    if options.write:
        page.write("Overlap", "scripts/bench overlap --write", text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
