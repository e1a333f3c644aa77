"""Steps and their cases, each of which returns rows of numbers or raises the reason for none."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

TableRows = list[dict[str, Any]]


class NotDone(Exception):
    """A case that cannot be tried on this machine; the message is one sentence."""


@dataclass(frozen=True)
class Case:
    """One thing to try: `run` returns rows, raises NotDone, or fails with any other error.

    Cases of a `group` are compared with each other, so they are run in one call: where one of them
    is missing, all are run.
    """

    name: str
    run: Callable[[], TableRows]
    group: str = ""


@dataclass(frozen=True)
class AcceptanceStep:
    """A step by the module whose `cases(setting)` lists what it tries, in order."""

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
        "Graphs and engines of random weights at full size, or of the weights of mini.",
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
        "One latent, decoded repeatedly in one slab, two slabs and many slabs: the number of"
        " different volumes, and their difference from the volume of one slab.",
    ),
    AcceptanceStep(
        "speed",
        "bench.acceptance.speed",
        "Seconds per step and per decode: medians of warm volumes, each contender in its own"
        " process. A ratio compares with the first contender of the same size and run that has a"
        " result. A contender with a ratio above 1 is faster.",
    ),
    AcceptanceStep(
        "served",
        "bench.acceptance.served",
        "Through Triton: a step beside the same graph in process, and concurrent requests to the"
        " ensemble.",
    ),
)


@dataclass(frozen=True)
class Setting:
    """Settings of all steps: the folder `work`, the GPU's name or "", upstream's checkout or ""."""

    work: str
    gpu: str
    upstream: str

    @property
    def folder(self) -> Path:
        """The folder of the steps' files."""
        return Path(self.work)

    @property
    def device(self) -> str:
        """PyTorch's name of the device."""
        return "cuda" if self.gpu else "cpu"

    @property
    def variants(self) -> tuple[str, ...]:
        """The variants to try; the first has a ControlNet."""
        return ("rflow-ct", "rflow-mr-brain") if self.gpu else ("mini",)

    def as_dict(self) -> Mapping[str, str]:
        """Return the fields."""
        return asdict(self)
