"""The reference of the report names the keys that the server and the client write."""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any

import numpy as np
from maisi_client._provenance import digest

from backends.maisi.fidelity import measure
from backends.maisi.report import report
from backends.maisi.request import complete
from export import variant
from tests.conftest import ROOT

PAGE = (ROOT / "docs" / "reference" / "report.md").read_text()
# Keys of other requests than the test's, and those that model.py adds.
_OTHER = {"request_id", "trace_id", "strength", "top_region", "bottom_region"}


def keys_of_the_server() -> set[str]:
    table = PAGE.split("<!-- begin keys of the server -->")[1].split("<!-- end")[0]
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    return set(re.findall(r"`(\w+)`", " ".join(rows)))


def masked_report() -> dict[str, Any]:
    mini = variant.load("mini").parameter({"autoencoder": "0" * 64})
    mask = np.full((32, 32, 32), 22, np.uint8)
    mask[:, 16:] = 220
    image = mask.astype(np.int16)
    plan = complete(mini, {"mask": mask})
    text = report(mini, plan, {}, image, mask, [measure(mini, image, mask)])
    fields: dict[str, Any] = json.loads(text)
    return fields


def test_the_table_names_the_keys_of_a_masked_volume() -> None:
    assert keys_of_the_server() - _OTHER == set(masked_report())
    assert keys_of_the_server() >= _OTHER


def test_the_example_has_the_keys_of_a_masked_volume() -> None:
    example = json.loads(PAGE.split("```json\n")[1].split("```")[0])
    fields = masked_report()
    assert set(example) == {*fields, "request_id", "request", "sha256", "client"}
    for key in ("quality", "fidelity", "versions"):
        assert set(example[key]) == set(fields[key])


def test_the_digest_is_as_described() -> None:
    voxels = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    affine = np.diag([-2.0, 2.0, 2.0, 1.0]) + 0.0
    content = b"(2, 3, 4) int16" + affine.astype("<f4").tobytes() + voxels.astype("<i2").tobytes()
    expected = hashlib.sha256(content).hexdigest()
    assert digest(voxels, affine) == expected
