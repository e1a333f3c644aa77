"""NV-Generate-CTMR's own code; it is run where MAISI_UPSTREAM names a checkout of it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from bench import compare
from bench.upstream import upstream
from bench.workload import Workload

CHECKOUT = os.environ.get("MAISI_UPSTREAM", "")


def test_a_folder_that_is_no_checkout_is_refused(tmp_path: Path) -> None:
    workload = Workload("rflow-ct", 64, 2, "cpu", "", "", upstream=str(tmp_path))
    refusal = pytest.raises(ValueError, match=r"^upstream: .*environment_rflow-ct\.json")
    with refusal, upstream(workload):
        pass


@pytest.mark.parametrize("variant", ["rflow-ct", "rflow-mr-brain"])
@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.skipif(not CHECKOUT, reason="MAISI_UPSTREAM names no checkout of NV-Generate-CTMR")
def test_upstream_and_our_engines_make_the_same_volume(
    variant: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    quick = [f"--variant={variant}", "--size=64", "--steps=2", "--repeat=1", "--device=cpu"]
    chosen = ["--contenders=upstream,engines", f"--upstream={CHECKOUT}", f"--work={tmp_path}"]
    assert compare.main([*quick, *chosen]) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert report["base"] == "upstream" and report["random_weights"]
    assert report["contenders"]["engines"]["difference"]["share"] < 1e-3
