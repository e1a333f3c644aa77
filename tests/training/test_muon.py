"""The learning rates of the optimiser."""

from __future__ import annotations

import torch
from torch import nn

from training.muon import Trainer


def test_fast_parameters_learn_at_a_multiple_of_the_rate() -> None:
    model, kernel = nn.Linear(4, 4), nn.Conv3d(8, 8, 3)
    trainer = Trainer(
        nn.ModuleList([model, kernel]), 1000, 1e-3, 0.9, fast=[model.bias], factor=5.0
    )
    before = [p.detach().clone() for p in (model.weight, model.bias)]
    trainer.step(model(torch.ones(2, 4)).sum() + kernel(torch.ones(1, 8, 3, 3, 3)).sum())
    weight, bias = (
        float((p - b).abs().mean().detach())
        for p, b in zip((model.weight, model.bias), before, strict=True)
    )
    assert 4.9 < bias / weight < 5.1  # AdamW's first update is the rate
