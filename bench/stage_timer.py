"""Measure the duration of each stage of a PyTorch pipeline with hooks of its modules."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch


class StageTimer:
    """Hooks of an autoencoder and of a ControlNet.

    The first decode of the autoencoder ends the sampling. The time of mask embeddings is summed
    over the steps and is part of the sampler's time. A `controlnet` that is None has no hooks, for
    networks without one, or because torch.compile must compile it as a whole.
    """

    def __init__(self, autoencoder: Any, controlnet: Any | None, device: str) -> None:
        """Add the hooks; they do not change results."""
        self.device = device
        self.decoding = 0.0
        self.embedding: float | None = None if controlnet is None else 0.0
        decode = autoencoder.decode_stage_2_outputs

        def timed(latent: torch.Tensor) -> Any:
            self.decoding = self.decoding or self.now()
            return decode(latent)

        autoencoder.decode_stage_2_outputs = timed
        if controlnet is not None:
            encoder = controlnet.controlnet_cond_embedding
            encoder.register_forward_pre_hook(lambda *_: self._add(-self.now()))
            encoder.register_forward_hook(lambda *_: self._add(self.now()))

    def now(self) -> float:
        """Return the time in seconds, after the device has finished its work."""
        if self.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def run(self, make: Callable[[], Any]) -> tuple[Any, dict[str, float | None]]:
        """Return the result of `make` and the seconds of each stage."""
        self.decoding, self.embedding = 0.0, None if self.embedding is None else 0.0
        begin = self.now()
        result = make()
        end = self.now()
        return result, {
            "mask_encoder": self.embedding,
            "sampler": self.decoding - begin,
            "decoder": end - self.decoding,
            "total": end - begin,
        }

    def _add(self, seconds: float) -> None:
        self.embedding = (self.embedding or 0.0) + seconds
