"""Measure how busy the server keeps an accelerator, with networks that only sleep.

    scripts/bench overlap [--case 256=3+2] [--in-flight 4] [--volumes 6] [--write]

Stand-ins replace the networks of mini: they sleep for the time that a GPU takes, and return arrays.
Large latents and embeddings have one voxel, because a GPU keeps them in its memory. The stages, the
queue, the transfers and the client are real. `--case SIDE=FLOW+DECODER` sets the voxels per side of
the volumes, the seconds of 30 steps, and the seconds of the decoder. The defaults are the times
that NVIDIA published for an A100 (docs/reference/published.md), and an estimate for good engines on
an H100. The last line of the output is JSON.
"""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf import text_format  # type: ignore[import-untyped]
from maisi_client import Client
from tritonclient.grpc import model_config_pb2 as pb

from bench import ROOT, page, servers
from bench.launcher import Server

_STEPS = 30


@dataclass(frozen=True)
class Case:
    """Volumes of `side`³ voxels, and the seconds of 30 steps (`flow`) and of the decoder."""

    side: int
    flow: float
    decoder: float

    @property
    def possible(self) -> float:
        """The volumes per second that the networks allow."""
        return 1 / (self.flow + self.decoder)


_CASES = (Case(256, 3.0, 2.0), Case(512, 19.0, 29.0), Case(256, 0.25, 0.15))
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
        parameters = json.loads(request.parameters() or "{}")
        if "maisi_token" not in parameters:
            error = pb_utils.TritonError("only the stages of mini call it")
            return pb_utils.InferenceResponse(error=error)
        if "maisi_prepare" in parameters:
            return pb_utils.InferenceResponse([])
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
    """Write the models of mini for volumes of `side`³ voxels.

    `seconds` has the time of a stand-in for each network that a stand-in replaces.
    """
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
    """Return the volumes per second that `in_flight` callers get while all of them are served."""
    picture = servers.picture((side, side, side)) if masked else None
    request: dict[str, Any] = {"mask": picture} if masked else {"size": [side] * 3}
    with Client(url) as client, ThreadPoolExecutor(in_flight) as pool:

        def end(seed: int) -> float:
            client.generate(**request, modality="mri_t1", steps=_STEPS, seed=seed)
            return time.monotonic()

        ends = sorted(pool.map(end, range(in_flight + volumes)))
    return volumes / (ends[-1] - ends[in_flight - 1])


def measure(case: Case, in_flight: int, volumes: int, repeat: int) -> list[dict[str, Any]]:
    """Return a row for volumes without a mask and a row for volumes with a mask.

    `share` is the rate of the server divided by the rate that the networks allow.
    """
    step = case.flow / _STEPS
    seconds = {"flow": step, "flow_masked": step, "vae_decoder": case.decoder, "mask_encoder": 0}
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        write_repository(Path(folder, "models"), case.side, seconds)
        with Server(Path(folder, "models"), Path(folder, "log")) as server:
            for masked in (False, True):
                rates = [
                    rate(server.grpc, case.side, in_flight, volumes, masked) for _ in range(repeat)
                ]
                share = statistics.median(rates) / case.possible
                rows.append({**vars(case), "masked": masked, "share": round(share, 3)})
    return rows


def text(rows: Sequence[dict[str, Any]], options: argparse.Namespace) -> str:
    """Return the section of the page."""
    cells = []
    for row in rows:
        possible = 60 * Case(row["side"], row["flow"], row["decoder"]).possible
        cells.append(
            [
                f"{row['side']}³",
                f"{row['flow']:g} s + {row['decoder']:g} s",
                "mask" if row["masked"] else "image only",
                f"{possible:.3g}",
                f"{possible * row['share']:.3g}",
                f"{row['share']:.2f}",
            ]
        )
    head = [
        "volume",
        "networks",
        "request",
        "possible, volumes/min",
        "served, volumes/min",
        "share",
    ]
    return (
        f"The networks of `mini` are replaced by stand-ins that sleep for the time of {_STEPS}"
        f" steps and of the decoder, with {options.in_flight} requests in flight. The times are the"
        " times that NVIDIA published for an A100, and an estimate for good engines on an H100"
        f" (0.25 s + 0.15 s). Medians of {options.repeat} runs of {options.volumes} volumes. Client"
        " and server share the cores of one machine.\n\n" + page.table(head, cells)
    )


def _case(words: str) -> Case:
    try:
        side, _, times = words.partition("=")
        flow, _, decoder = times.partition("+")
        return Case(int(side), float(flow), float(decoder))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{words!r} is not SIDE=FLOW+DECODER, such as 256=3+2"
        ) from None


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(
        prog="scripts/bench overlap",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--case", type=_case, action="append", metavar="SIDE=FLOW+DECODER", help="see above")
    add("--in-flight", type=int, default=4, help="concurrent callers [%(default)s]")
    add(
        "--volumes",
        type=int,
        default=6,
        help="measured volumes per run, after the first volume of each caller [%(default)s]",
    )
    add("--repeat", type=int, default=1, help="runs [%(default)s]")
    add("--write", action="store_true", help="write the section of docs/reference/benchmarks.md")
    options = parser.parse_args(words)
    rows = [
        row
        for case in options.case or _CASES
        for row in measure(case, options.in_flight, options.volumes, options.repeat)
    ]
    section = text(rows, options)
    print(section + "\n")
    print(json.dumps(rows))
    if options.write:
        page.write("Overlap", shlex.join(["scripts/bench", "overlap", *words]), section)
    return 0


if __name__ == "__main__":
    sys.exit(main())
