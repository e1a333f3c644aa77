"""Processes of models that die while the server runs."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from server import recovery
from server.drain import Stop


def test_a_process_that_dies_while_another_model_loads_again_is_loaded_again_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stop = Stop()
    living = {1: "mini.flow", 2: "mini.vae_encoder", 3: "mini.stream"}
    stubs, loaded = dict(living), []
    del living[1]  # the flow has died

    def load(model: str) -> None:
        loaded.append(model)
        living[10 + len(loaded)] = model
        if model == "mini.flow":
            del living[2]
        else:
            stop.count = 1

    control = SimpleNamespace(
        load=load,
        unload=lambda model: None,
        states=lambda: dict.fromkeys(stubs.values(), "READY"),
        config=lambda model: {},
        regions=list,
        unregister=None,
    )
    process = SimpleNamespace(poll=lambda: None, pid=0)
    triton = SimpleNamespace(
        control=control, process=process, prefix="none", stubs=lambda: dict(living)
    )
    health = SimpleNamespace(
        hang=lambda: None, recovered=lambda reason: None, restarts=dict.fromkeys(stubs.values(), 0)
    )
    monkeypatch.setattr(recovery, "POLL", 0.01)
    monkeypatch.setattr(recovery, "reap", lambda own: None)
    monkeypatch.setattr(recovery, "_kill_frozen", lambda alive, since: {})
    monkeypatch.setattr(recovery.shared_memory, "sweep_clients", lambda *_: None)
    monkeypatch.setattr(recovery.region_modes, "close_regions", lambda prefix: None)
    assert recovery.watch(triton, stubs, health, stop) is None  # type: ignore[arg-type]
    assert loaded == ["mini.flow", "mini.vae_encoder"]
