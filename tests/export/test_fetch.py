"""The real huggingface_hub against a hub on this machine."""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from export import fetch
from export import variant as variants
from export.variant import Variant
from tests.export import hub
from tests.export.hub import COMMIT, TOKEN, Hub

CT, BRAIN = "nvidia/NV-Generate-CT", "nvidia/NV-Generate-MR-Brain"
VAE, UNET = "models/autoencoder_v1.pt", "models/diff_unet_3d_rflow-mr-brain_v1.pt"
VAE_BYTES, UNET_BYTES = b"vae" * 1000, bytes(range(256)) * 100_000
# huggingface_hub writes blocks of this many bytes; a block that is cut is requested again.
BLOCK = 10 * 1024 * 1024
BRAIN_COMMIT = "ef9759bf221265b2704569cdeeac20bbf03b62ee"
NEWEST = "1" * 40


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def brain() -> Variant:
    """Return rflow-mr-brain, from two repositories, pinned to what the test serves."""
    official = variants.load("rflow-mr-brain")
    contents = {"autoencoder": VAE_BYTES, "diffusion_unet": UNET_BYTES}
    pinned = {role: {**official.hub[role], "sha256": sha(contents[role])} for role in contents}
    return dataclasses.replace(official, hub=pinned)


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "no-login"))
    files = {(CT, VAE): VAE_BYTES, (BRAIN, UNET): UNET_BYTES}
    commits = (COMMIT, BRAIN_COMMIT, NEWEST)
    revisions = {"main": NEWEST, **{commit: commit for commit in commits}}
    with hub.serve(Hub(files, revisions=revisions)) as serving:
        yield serving


def get(served: Hub, folder: Path, **options: Any) -> dict[str, Path]:
    arguments: dict[str, Any] = {"accept_license": True, "progress": lambda line: None, **options}
    variant = arguments.pop("variant", None) or brain()
    return fetch.fetch(variant, folder, endpoint=served.url, **arguments)


def parts(folder: Path) -> list[Path]:
    return list(folder.rglob("*.part"))


def grown(folder: Path) -> int:
    sizes = [0]
    for path in parts(folder):
        with suppress(FileNotFoundError):  # it is complete, and has its final name
            sizes.append(path.stat().st_size)
    return max(sizes)


def test_files_land_where_export_looks_and_are_recorded(served: Hub, tmp_path: Path) -> None:
    lines: list[str] = []
    paths = get(served, tmp_path, progress=lines.append)
    assert paths == {"autoencoder": tmp_path / VAE, "diffusion_unet": tmp_path / UNET}
    assert (tmp_path / VAE).read_bytes() == VAE_BYTES
    assert (tmp_path / UNET).read_bytes() == UNET_BYTES
    record = json.loads((tmp_path / "fetch.json").read_text())["files"]
    assert record[UNET] == {
        "repo": BRAIN,
        "file": UNET,
        "revision": BRAIN_COMMIT,
        "commit": BRAIN_COMMIT,
        "bytes": len(UNET_BYTES),
        "sha256": sha(UNET_BYTES),
        "license": "NVIDIA Open Model License",
        "license_url": brain().license_url,
    }
    assert lines[1] == f"{UNET}: 25.6 MB from {BRAIN}"
    assert not parts(tmp_path)


def test_the_token_goes_to_the_hub_and_not_to_its_store(served: Hub, tmp_path: Path) -> None:
    served.private.add(BRAIN)
    get(served, tmp_path, token=TOKEN)
    with_token = {server: has_token for server, _, _, _, has_token in served.requests}
    assert with_token == {"hub": True, "store": False}


def test_the_token_is_taken_from_the_environment(
    served: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served.private.add(BRAIN)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    get(served, tmp_path)
    assert (tmp_path / UNET).exists()


def test_a_connection_cut_on_the_way_goes_on_where_it_stopped(served: Hub, tmp_path: Path) -> None:
    served.cuts = [len(VAE_BYTES), BLOCK + 1_000_000, BLOCK + 1_000_000]
    get(served, tmp_path)
    assert (tmp_path / UNET).read_bytes() == UNET_BYTES
    assert served.ranges() == [None, None, f"bytes={BLOCK}-", f"bytes={2 * BLOCK}-"]


def test_what_came_before_an_interruption_is_not_asked_again(served: Hub, tmp_path: Path) -> None:
    """Ctrl-C in the middle, in a process of its own; then the same command again."""
    served.cuts, served.stall = [len(VAE_BYTES), BLOCK + 1_000_000], threading.Event()
    program = (
        "import argparse, sys\n"
        "from export import fetch\n"
        "parser = argparse.ArgumentParser()\n"
        "fetch.add_arguments(parser)\n"
        "sys.exit(fetch.run(parser.parse_args()))\n"
    )
    toml = tmp_path / "own.toml"
    entries = brain().hub
    toml.write_text(
        'base = "rflow-mr-brain"\nname = "own"\n'
        + "".join(f'[hub.{role}]\nsha256 = "{entries[role]["sha256"]}"\n' for role in entries)
    )
    command = [sys.executable, "-c", program, str(toml), "--to", str(tmp_path), "--accept-license"]
    environment = {**os.environ, "HF_ENDPOINT": served.url}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as first:
        deadline = time.monotonic() + 60
        while grown(tmp_path) < BLOCK and first.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        first.send_signal(signal.SIGINT)
        out, err = first.communicate(timeout=60)
    served.stall.set()
    assert first.returncode == 130, err
    assert "export: stopped; run the same command again to resume" in err
    assert "Traceback" not in err
    assert "license of own: NVIDIA Open Model License, https://" in out
    assert not (tmp_path / UNET).exists()
    assert grown(tmp_path) == BLOCK

    second = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert second.returncode == 0, second.stderr
    assert f"{VAE}: 0.0 MB, already here" in second.stdout
    assert (tmp_path / UNET).read_bytes() == UNET_BYTES
    assert served.ranges() == [None, None, f"bytes={BLOCK}-"]
    assert not parts(tmp_path)


def test_what_is_there_is_not_fetched_again(served: Hub, tmp_path: Path) -> None:
    get(served, tmp_path)
    (tmp_path / "fetch.json").unlink()
    before = len(served.ranges())
    get(served, tmp_path)
    assert len(served.ranges()) == before
    record = json.loads((tmp_path / "fetch.json").read_text())["files"]
    assert record[VAE]["sha256"] == sha(VAE_BYTES)


def test_a_file_of_ones_own_is_not_replaced(served: Hub, tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / UNET).write_text("months of training")
    with pytest.raises(ValueError, match=r"brain_v1.pt exists and is not nvidia/NV-Generate-MR-B"):
        get(served, tmp_path)
    assert (tmp_path / UNET).read_text() == "months of training"


def test_another_revision_replaces_what_was_fetched(served: Hub, tmp_path: Path) -> None:
    get(served, tmp_path)
    served.files[BRAIN, UNET] = b"v2"
    with pytest.raises(ValueError, match=f"NV-Generate-MR-Brain/.* has sha256 {sha(b'v2')}, and"):
        get(served, tmp_path)
    get(served, tmp_path, revision="main")
    assert (tmp_path / UNET).read_bytes() == b"v2"
    record = json.loads((tmp_path / "fetch.json").read_text())["files"]
    assert (record[UNET]["revision"], record[UNET]["commit"]) == ("main", NEWEST)
    assert record[VAE]["commit"] == COMMIT  # the other repository stays pinned


def test_a_wrong_digest_leaves_nothing(served: Hub, tmp_path: Path) -> None:
    served.digest = sha(b"something else")
    unpinned = {role: {**entry, "sha256": served.digest} for role, entry in brain().hub.items()}
    with pytest.raises(ValueError, match=r"has sha256 [0-9a-f]{64}, but [0-9a-f]{64} is exp"):
        get(served, tmp_path, variant=dataclasses.replace(brain(), hub=unpinned))
    assert not list((tmp_path / "models").iterdir())
    assert not (tmp_path / "fetch.json").exists()


def test_a_file_without_a_digest_on_the_hub_is_checked_against_the_pinned_one(
    served: Hub, tmp_path: Path
) -> None:
    served.is_lfs = False
    get(served, tmp_path)
    served.files[BRAIN, UNET] = b"x" * len(UNET_BYTES)
    with pytest.raises(ValueError, match=r"has sha256 .* is expected"):
        get(served, tmp_path / "other")


@pytest.mark.parametrize(
    ("change", "token", "sentence"),
    [
        ({"private": {BRAIN}}, None, r"MR-Brain needs a token \(401\): set HF_TOKEN to one of h"),
        ({"private": {BRAIN}}, "hf_wrong", r"the token is not accepted for nvidia/.* \(401\)"),
        ({"gated": {BRAIN}}, None, r"NV-Generate-MR-Brain needs a token \(401\)"),
        ({"gated": {BRAIN}}, TOKEN, r"no access to .* \(403\): agree to its terms at https://hug"),
        ({"files": {(CT, VAE): b"", (BRAIN, "x"): b""}}, None, rf"has no file {UNET} at revision"),
        ({"files": {(CT, VAE): VAE_BYTES}}, None, r"there is no repository nvidia/NV-Gen.* \(404"),
        ({"revisions": {COMMIT: COMMIT}}, None, rf"has no revision {BRAIN_COMMIT} \(404\)"),
    ],
)
def test_what_the_hub_refuses_is_one_sentence(
    served: Hub, tmp_path: Path, change: dict[str, Any], token: str | None, sentence: str
) -> None:
    for name, value in change.items():
        setattr(served, name, value)
    served.digest = sha(VAE_BYTES)
    with pytest.raises(ValueError, match=sentence) as caught:
        get(served, tmp_path, token=token)
    assert str(caught.value).startswith("hub: ")
    assert "\n" not in str(caught.value)
    assert not parts(tmp_path)


def test_a_hub_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"hub: http://127.0.0.1:9 cannot be reached: .*refused"):
        fetch.fetch(brain(), tmp_path, None, True, endpoint="http://127.0.0.1:9")


def test_a_full_disk_is_seen_before(
    served: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(ValueError, match=r"disk: 0.03 GB are needed in .*, and 0.00 GB are free"):
        get(served, tmp_path)
    assert not served.ranges()


def test_without_agreement_to_the_licence_nothing_is_asked(served: Hub, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"under the NVIDIA Non-Commercial License, https://.*pdf"):
        get(served, tmp_path, variant=variants.load("rflow-mr"), accept_license=False)
    assert not served.requests


def test_a_variant_without_files_on_the_hub_says_so(served: Hub, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"hub: mini names no file on the hub"):
        get(served, tmp_path, variant=variants.load("mini"))


def test_the_command_says_what_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parser = argparse.ArgumentParser()
    fetch.add_arguments(parser)
    assert fetch.run(parser.parse_args(["rflow-ct", "--to", str(tmp_path)])) == 1
    err = capsys.readouterr().err
    assert "license: the weights of rflow-ct are under the NVIDIA Open Model License" in err
    assert err.count("\n") == 1
    assert fetch.run(parser.parse_args(["salt", "--to", str(tmp_path)])) == 1
    assert "'salt' is not one of" in capsys.readouterr().err
