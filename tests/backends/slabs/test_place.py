"""What a chain does where memory is short, in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys

from backends.slabs import budget
from tests.conftest import ROOT


def test_without_memory_slabs_get_thinner_and_then_it_is_refused() -> None:
    chain = ROOT / "model_repository" / "mini.vae_decoder" / "1" / "chain.json"
    command = [sys.executable, "-m", "tests.backends.slabs.short", str(chain)]
    told = json.loads(subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout)
    none, little, enough = told["tries"]
    assert none["sentence"].startswith("out of memory: latent [1, 4, 16, 12, 12] was too large")
    assert "/" not in none["sentence"] and "\n" not in none["sentence"]
    assert [int(said.split("slabs of ")[1].split()[0]) for said in none["warned"]] == [
        *(16, 8, 4, 2, 1)
    ]
    assert little["sentence"] is None and len(little["warned"]) > 1
    assert little["difference"] < 1e-5  # as any other thickness: a hundredth of a grey level
    assert enough["sentence"] is None and not enough["warned"]
    assert enough["difference"] == 0
    first, last = told["digests"]
    assert first == last


def test_activations_go_first_then_slabs_get_thinner() -> None:
    assert budget.thinner(11, 10**9) == [(11, 10**9), (11, 0), (5, 0), (2, 0), (1, 0)]
    assert budget.thinner(1, 0) == [(1, 0)]
