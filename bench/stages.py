"""How long each stage of a PyTorch pipeline takes, seen from outside by its modules."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch


class Stages:
    """Watches an autoencoder, whose first decode ends the sampling, and a ControlNet.

    Mask embeddings are summed over the steps and are part of the sampler's time. `inside=False`
    leaves the ControlNet alone, as torch.compile has to see it whole.
    """

    def __init__(self, autoencoder: Any, controlnet: Any, device: str, inside: bool = True) -> None:
        """Measure the networks by hooks that leave their results alone."""
        self.device = device
        self.decoding = 0.0
        self.embedding: float | None = 0.0 if inside else None
        decode = autoencoder.decode_stage_2_outputs

        def watched(latent: torch.Tensor) -> Any:
            self.decoding = self.decoding or self.now()
            return decode(latent)

        autoencoder.decode_stage_2_outputs = watched
        if inside:
            encoder = controlnet.controlnet_cond_embedding
            encoder.register_forward_pre_hook(lambda *_: self._add(-self.now()))
            encoder.register_forward_hook(lambda *_: self._add(self.now()))

    def now(self) -> float:
        """Return the clock in seconds, once the device has done what it was told."""
        if self.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def run(self, make: Callable[[], Any]) -> tuple[Any, dict[str, float | None]]:
        """Return what `make` gives, and the seconds of each stage."""
        self.decoding, self.embedding = 0.0, None if self.embedding is None else 0.0
        begin = self.now()
        made = make()
        end = self.now()
        return made, {
            "mask_encoder": self.embedding,
            "sampler": self.decoding - begin,
            "decoder": end - self.decoding,
            "total": end - begin,
        }

    def _add(self, seconds: float) -> None:
        self.embedding = (self.embedding or 0.0) + seconds
