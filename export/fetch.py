"""The official checkpoints from the Hugging Face hub, pinned, resumable and checked."""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import huggingface_hub as hub
from httpx2 import ConnectError, HTTPError
from huggingface_hub import errors
from huggingface_hub.file_download import http_get
from huggingface_hub.utils import build_hf_headers

from export import variant as variants
from export.files import sha256
from export.variant import Variant

RECORD = "fetch.json"
_INTERRUPTED = 130  # what a shell calls a process that Ctrl-C ended


@dataclass(frozen=True)
class _Remote:
    """A file on the hub: `commit` is what `revision` stood for, `path` where it goes."""

    role: str
    repo: str
    file: str
    revision: str
    commit: str
    size: int
    digest: str | None
    name: str
    path: Path

    @property
    def part(self) -> Path:
        """Where it grows; named by its content, so that only the same file is gone on with."""
        mark = (self.digest or self.commit)[:12]
        return self.path.with_name(f".{self.path.name}.{mark}.part")


def fetch(
    variant: Variant,
    folder: Path,
    token: str | None = None,
    accept_license: bool = False,
    endpoint: str | None = None,
    revision: str | None = None,
    progress: Callable[[str], object] = print,
) -> dict[str, Path]:
    """Bring the checkpoints of `variant` into `folder`, where `[checkpoints]` says; role -> file.

    What is there already is kept if its digest is right, and a download that was cut goes on
    where it stopped. `folder/fetch.json` tells where each file came from, with its sha256.
    `token` is by default what huggingface_hub finds, in HF_TOKEN for one; `endpoint` likewise, in
    HF_ENDPOINT; `revision` stands for the pinned one of the repository with the diffusion UNet.
    `progress` gets a line a file; a terminal sees a bar. Raises ValueError with a sentence, and
    OSError where the folder cannot be written.
    """
    if not variant.hub:
        raise ValueError(f"hub: {variant.name} names no file on the hub, its checkpoints are given")
    if not accept_license:
        raise ValueError(
            f"license: the weights of {variant.name} are under the {variant.license}, "
            f"{variant.license_url} : read it, and say --accept-license to agree"
        )
    token = token or hub.get_token()
    own = variant.hub.get("diffusion_unet", {}).get("repo")
    remotes = []
    for role, entry in variant.hub.items():
        wanted = revision if entry["repo"] == own else None
        remotes.append(_look_up(variant, role, folder, token, endpoint, wanted))
    recorded = _recorded(folder)
    here = {remote.role: _here(remote, recorded) for remote in remotes}
    _check_disk(folder, [remote for remote in remotes if here[remote.role] is None])
    for remote in remotes:
        size, digest = f"{remote.size / 1e6:.1f} MB", here[remote.role]
        if digest is not None:
            progress(f"{remote.name}: {size}, already here")
        else:
            progress(f"{remote.name}: {size} from {remote.repo}")
            digest = _download(remote, token, endpoint)
        recorded[remote.name] = {
            "repo": remote.repo,
            "file": remote.file,
            "revision": remote.revision,
            "commit": remote.commit,
            "bytes": remote.path.stat().st_size,
            "sha256": digest,
            "license": variant.license,
            "license_url": variant.license_url,
        }
        _record(folder, recorded)
    return {remote.role: remote.path for remote in remotes}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `run` takes."""
    parser.add_argument("variant", help=f"one of {', '.join(variants.names())}, or a .toml file")
    parser.add_argument("--to", type=Path, required=True, metavar="DIR", help="checkpoint folder")
    parser.add_argument(
        "--accept-license", action="store_true", help="agree to the licence of the weights"
    )
    parser.add_argument(
        "--revision", help="branch, tag or commit in place of the pinned one of the UNet's repo"
    )


def run(args: argparse.Namespace) -> int:
    """Do `python -m export fetch`; return its exit status. The token comes from HF_TOKEN."""
    try:
        chosen = variants.load(args.variant)
        if args.accept_license:
            print(f"license of {chosen.name}: {chosen.license}, {chosen.license_url}")
        fetch(chosen, args.to, None, args.accept_license, revision=args.revision)
    except (ValueError, OSError) as error:
        print(f"export: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("export: stopped; the same command goes on from here", file=sys.stderr)
        return _INTERRUPTED
    print(f"{chosen.name}: in {args.to}, digests in {args.to / RECORD}")
    return 0


def _look_up(
    variant: Variant,
    role: str,
    folder: Path,
    token: str | None,
    endpoint: str | None,
    revision: str | None,
) -> _Remote:
    entry = variant.hub[role]
    repo, file, wanted = entry["repo"], entry["file"], revision or entry["revision"]
    url = hub.hf_hub_url(repo, file, revision=wanted, endpoint=endpoint)
    try:
        found = hub.get_hf_file_metadata(url, token=token or False, endpoint=endpoint)
    except (HTTPError, OSError) as error:
        raise ValueError(_reason(error, url, repo, file, wanted, token)) from error
    if found.commit_hash is None or found.etag is None or found.size is None:
        raise ValueError(f"hub: {url} is not answered as a hub answers, without commit and size")
    digest = found.etag if re.fullmatch(r"[0-9a-f]{64}", found.etag) else None
    pinned = None if revision else entry.get("sha256")
    if digest and pinned and digest != pinned:
        raise ValueError(f"hub: {repo}/{file} has sha256 {digest}, and {pinned} is pinned")
    name = variant.checkpoints[role]
    return _Remote(
        role,
        repo,
        file,
        wanted,
        found.commit_hash,
        found.size,
        digest or pinned,
        name,
        folder / name,
    )


def _here(remote: _Remote, recorded: dict[str, Any]) -> str | None:
    """Return the digest of the file if it is in place, None where there is none or an older one.

    Raises ValueError when the file there is another one, which did not come from here.
    """
    if not remote.path.exists():
        return None
    digest, known = sha256(remote.path), recorded.get(remote.name, {})
    same_commit = digest == known.get("sha256") and remote.commit == known.get("commit")
    if digest == remote.digest or (remote.digest is None and same_commit):
        return digest
    if digest != known.get("sha256"):
        raise ValueError(
            f"{remote.path} exists and is not {remote.repo}/{remote.file}: move it, or choose "
            "another folder"
        )
    return None


def _check_disk(folder: Path, missing: list[_Remote]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    there = [remote.part.stat().st_size for remote in missing if remote.part.exists()]
    needed = sum(remote.size for remote in missing) - sum(there)
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise ValueError(
            f"disk: {needed / 1e9:.2f} GB are needed in {folder}, and {free / 1e9:.2f} GB are free"
        )


def _download(remote: _Remote, token: str | None, endpoint: str | None) -> str:
    """Bring one file into place, whole and checked; return its sha256."""
    # The commit, not the branch, which may move between the files.
    url = hub.hf_hub_url(remote.repo, remote.file, revision=remote.commit, endpoint=endpoint)
    headers = build_hf_headers(token=token or False) | {"Accept-Encoding": "identity"}
    try:
        remote.path.parent.mkdir(parents=True, exist_ok=True)
        with remote.part.open("ab") as file:
            # hf_hub_download begins anew after each interruption; this part of it does not.
            http_get(
                url,
                file,
                resume_size=file.tell(),
                headers=headers,
                expected_size=remote.size,
                displayed_filename=remote.name,
            )
    except (HTTPError, OSError) as error:
        said = _reason(error, url, remote.repo, remote.file, remote.commit, token)
        raise ValueError(said) from error
    digest = sha256(remote.part)
    if remote.digest and digest != remote.digest:
        remote.part.unlink()
        raise ValueError(
            f"hub: {remote.repo}/{remote.file} came with sha256 {digest}, and {remote.digest} is "
            "right: nothing of it is kept"
        )
    os.replace(remote.part, remote.path)
    return digest


def _reason(
    error: Exception, url: str, repo: str, file: str, revision: str, token: str | None
) -> str:
    """Say in one sentence why the hub gave nothing."""
    if isinstance(error, errors.RevisionNotFoundError):
        return f"hub: {repo} has no revision {revision} (404)"
    if isinstance(error, errors.EntryNotFoundError):
        return f"hub: {repo} has no file {file} at revision {revision} (404)"
    if isinstance(error, errors.HfHubHTTPError):
        status = error.response.status_code
        if status in (401, 403) and token is None:
            return (
                f"hub: {repo} wants a token ({status}): set HF_TOKEN to one of "
                "https://huggingface.co/settings/tokens"
            )
        if status == 403 or isinstance(error, errors.GatedRepoError):
            return (
                f"hub: the token has no access to {repo} ({status}): agree to its terms at "
                f"https://huggingface.co/{repo}"
            )
        if status == 401:
            return f"hub: the token is not accepted for {repo} (401): look at HF_TOKEN"
        if status == 404:
            return f"hub: there is no repository {repo}, or the token does not show it (404)"
        return f"hub: {url} answers {status}"
    host = url.split(f"/{repo}/")[0]
    if isinstance(error, ConnectError):
        return f"hub: {host} cannot be reached: {_line(error)}"
    if isinstance(error, HTTPError):
        return f"hub: the connection to {host} broke, the same command goes on: {_line(error)}"
    return f"{repo}/{file} cannot be brought here: {_line(error)}"


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _recorded(folder: Path) -> dict[str, Any]:
    try:
        files: dict[str, Any] = json.loads((folder / RECORD).read_text())["files"]
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{folder / RECORD} is not what fetch writes: {_line(error)}") from error
    return files


def _record(folder: Path, files: dict[str, Any]) -> None:
    new = folder / f".{RECORD}.new"
    new.write_text(json.dumps({"files": files}, indent=2) + "\n")
    os.replace(new, folder / RECORD)
