"""Define the steps and their cases."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

TableRows = list[dict[str, Any]]


class NotDone(Exception):
    """This machine cannot run a case; the message is one sentence."""


@dataclass(frozen=True)
class Case:
    """A case: `run` returns rows of a table, raises NotDone, or fails with another error.

    Cases of a `group` are compared with each other and must run in one call. If the result of one
    case is missing, all cases of its group run again.
    """

    name: str
    run: Callable[[], TableRows]
    group: str = ""


@dataclass(frozen=True)
class AcceptanceStep:
    """A step; the function `cases(setting)` of its module returns its cases in order."""

    name: str
    module: str
    about: str


STEPS = (
    AcceptanceStep(
        "machine", "bench.acceptance.machine", "The driver, the GPU, and the engines that load."
    ),
    AcceptanceStep(
        "export",
        "bench.acceptance.weights",
        "Graphs and engines, built from random weights of full size or from the weights of mini.",
    ),
    AcceptanceStep(
        "parity",
        "bench.acceptance.parity",
        "Every graph and whole volumes, compared with MONAI in float32 (without TF32) on the same"
        " device. The difference of a graph is relative to the norm of MONAI's output. The"
        " difference of a volume is the share of voxels that differ by more than one grey level.",
    ),
    AcceptanceStep(
        "repeat",
        "bench.acceptance.repeat",
        "One latent, decoded repeatedly in one slab, two slabs and many slabs. The table has the"
        " number of different volumes, and their difference from the volume of one slab.",
    ),
    AcceptanceStep(
        "speed",
        "bench.acceptance.speed",
        "Seconds per step and per decode: medians of warm volumes, each contender in its own"
        " process. A ratio is the time of the first contender with a result, at the same size and"
        " in the same run, divided by the time of this contender.",
    ),
    AcceptanceStep(
        "served",
        "bench.acceptance.served",
        "Requests through Triton: the time of a step compared with the same graph in process, and"
        " concurrent requests to the ensemble.",
    ),
)


@dataclass(frozen=True)
class Setting:
    """Settings of all steps: a folder for files, the GPU's name or "", upstream's folder or ""."""

    work: str
    gpu: str
    upstream: str

    @property
    def folder(self) -> Path:
        """The folder for the files of the steps."""
        return Path(self.work)

    @property
    def device(self) -> str:
        """The name of the device in PyTorch."""
        return "cuda" if self.gpu else "cpu"

    @property
    def variants(self) -> tuple[str, ...]:
        """The names of the variants to run; the first variant has a ControlNet."""
        return ("rflow-ct", "rflow-mr-brain") if self.gpu else ("mini",)

    def as_dict(self) -> Mapping[str, str]:
        """Return the fields by name."""
        return asdict(self)
