"""Download of the official checkpoints from the Hugging Face hub: pinned, resumable, verified."""

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
_INTERRUPTED = 130  # a shell's exit status for a process that Ctrl-C ended


@dataclass(frozen=True)
class _Remote:
    """A file on the hub: `commit` is that of `revision`, `path` the local file.

    `name` is `path` relative to the checkpoint folder; `digest` its sha256, None where neither the
    hub nor the variant has one.
    """

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
        """The partial download, named by its content, so that only the same file is resumed."""
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
    """Download the checkpoints of `variant` into `folder`; return role -> file.

    The paths are those of the variant's `[checkpoints]`. Files that exist with the right digest are
    not downloaded again, and an interrupted download resumes. `folder/fetch.json` records the
    source and the sha256 of each file. `token` is by default the one that huggingface_hub finds,
    such as HF_TOKEN, and `endpoint` that of HF_ENDPOINT; `revision` replaces the pinned revision of
    the diffusion UNet's repository. `progress` is called with one line per file; a terminal shows a
    bar. Raises ValueError if a download fails, and OSError if `fetch.json` cannot be written.
    """
    if not variant.hub:
        raise ValueError(f"hub: {variant.name} names no file on the hub; pass its checkpoints")
    if not accept_license:
        raise ValueError(
            f"license: the weights of {variant.name} are under the {variant.license}, "
            f"{variant.license_url} : read it, and agree with --accept-license"
        )
    token = token or hub.get_token()
    unet_repo = variant.hub.get("diffusion_unet", {}).get("repo")
    remotes = []
    for role, entry in variant.hub.items():
        override = revision if entry["repo"] == unet_repo else None
        remotes.append(_look_up(variant, role, folder, token, endpoint, override))
    record = _read_record(folder)
    local_digests = {remote.role: _local_digest(remote, record) for remote in remotes}
    _check_disk(folder, [remote for remote in remotes if local_digests[remote.role] is None])
    for remote in remotes:
        size, digest = f"{remote.size / 1e6:.1f} MB", local_digests[remote.role]
        if digest is not None:
            progress(f"{remote.name}: {size}, already here")
        else:
            progress(f"{remote.name}: {size} from {remote.repo}")
            digest = _download(remote, token, endpoint)
        record[remote.name] = {
            "repo": remote.repo,
            "file": remote.file,
            "revision": remote.revision,
            "commit": remote.commit,
            "bytes": remote.path.stat().st_size,
            "sha256": digest,
            "license": variant.license,
            "license_url": variant.license_url,
        }
        _write_record(folder, record)
    return {remote.role: remote.path for remote in remotes}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `run`."""
    parser.add_argument("variant", help=f"one of {', '.join(variants.names())}, or a .toml file")
    parser.add_argument("--to", type=Path, required=True, metavar="DIR", help="checkpoint folder")
    parser.add_argument(
        "--accept-license", action="store_true", help="agree to the licence of the weights"
    )
    parser.add_argument(
        "--revision", help="branch, tag or commit of the UNet's repo, in place of the pinned one"
    )


def run(args: argparse.Namespace) -> int:
    """Run `python -m export fetch`; return its exit status. The token comes from HF_TOKEN."""
    try:
        variant = variants.load(args.variant)
        if args.accept_license:
            print(f"license of {variant.name}: {variant.license}, {variant.license_url}")
        fetch(variant, args.to, None, args.accept_license, revision=args.revision)
    except (ValueError, OSError) as error:
        print(f"export: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("export: stopped; run the same command again to resume", file=sys.stderr)
        return _INTERRUPTED
    print(f"{variant.name}: in {args.to}, digests in {args.to / RECORD}")
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
    repo, file, name = entry["repo"], entry["file"], variant.checkpoints[role]
    pinned = None if revision else entry.get("sha256")
    revision = revision or entry["revision"]
    url = hub.hf_hub_url(repo, file, revision=revision, endpoint=endpoint)
    try:
        metadata = hub.get_hf_file_metadata(url, token=token or False, endpoint=endpoint)
    except (HTTPError, OSError) as error:
        raise ValueError(_reason(error, url, repo, file, revision, token)) from error
    if metadata.commit_hash is None or metadata.etag is None or metadata.size is None:
        raise ValueError(f"hub: {url} answers without the commit and size that a hub sends")
    digest = metadata.etag if re.fullmatch(r"[0-9a-f]{64}", metadata.etag) else None
    if digest and pinned and digest != pinned:
        raise ValueError(f"hub: {repo}/{file} has sha256 {digest}, and {pinned} is pinned")
    return _Remote(
        role,
        repo,
        file,
        revision,
        metadata.commit_hash,
        metadata.size,
        digest or pinned,
        name,
        folder / name,
    )


def _local_digest(remote: _Remote, record: dict[str, Any]) -> str | None:
    """Return the digest of the local file, None if it is missing or an older download.

    Raises ValueError if the file exists and is not a download.
    """
    if not remote.path.exists():
        return None
    digest, entry = sha256(remote.path), record.get(remote.name, {})
    same_commit = digest == entry.get("sha256") and remote.commit == entry.get("commit")
    if digest == remote.digest or (remote.digest is None and same_commit):
        return digest
    if digest != entry.get("sha256"):
        raise ValueError(
            f"{remote.path} exists and is not {remote.repo}/{remote.file}: move it, or choose "
            "another folder"
        )
    return None


def _check_disk(folder: Path, missing: list[_Remote]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    partial = [remote.part.stat().st_size for remote in missing if remote.part.exists()]
    needed = sum(remote.size for remote in missing) - sum(partial)
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise ValueError(
            f"disk: {needed / 1e9:.2f} GB are needed in {folder}, and {free / 1e9:.2f} GB are free"
        )


def _download(remote: _Remote, token: str | None, endpoint: str | None) -> str:
    """Download one file to its path, complete and verified; return its sha256."""
    # The commit, not the branch, which may change between the files.
    url = hub.hf_hub_url(remote.repo, remote.file, revision=remote.commit, endpoint=endpoint)
    headers = build_hf_headers(token=token or False) | {"Accept-Encoding": "identity"}
    try:
        remote.path.parent.mkdir(parents=True, exist_ok=True)
        with remote.part.open("ab") as file:
            # hf_hub_download restarts after an interruption; `http_get`, which it uses, resumes.
            http_get(
                url,
                file,
                resume_size=file.tell(),
                headers=headers,
                expected_size=remote.size,
                displayed_filename=remote.name,
            )
    except (HTTPError, OSError) as error:
        reason = _reason(error, url, remote.repo, remote.file, remote.commit, token)
        raise ValueError(reason) from error
    digest = sha256(remote.part)
    if remote.digest and digest != remote.digest:
        remote.part.unlink()
        raise ValueError(
            f"hub: {remote.repo}/{remote.file} has sha256 {digest}, but {remote.digest} is "
            "expected: the download was deleted"
        )
    os.replace(remote.part, remote.path)
    return digest


def _reason(
    error: Exception, url: str, repo: str, file: str, revision: str, token: str | None
) -> str:
    """Return one sentence that says why the download failed."""
    if isinstance(error, errors.RevisionNotFoundError):
        return f"hub: {repo} has no revision {revision} (404)"
    if isinstance(error, errors.EntryNotFoundError):
        return f"hub: {repo} has no file {file} at revision {revision} (404)"
    if isinstance(error, errors.HfHubHTTPError):
        status = error.response.status_code
        if status in (401, 403) and token is None:
            return (
                f"hub: {repo} needs a token ({status}): set HF_TOKEN to one of "
                "https://huggingface.co/settings/tokens"
            )
        if status == 403 or isinstance(error, errors.GatedRepoError):
            return (
                f"hub: the token has no access to {repo} ({status}): agree to its terms at "
                f"https://huggingface.co/{repo}"
            )
        if status == 401:
            return f"hub: the token is not accepted for {repo} (401): check HF_TOKEN"
        if status == 404:
            return f"hub: there is no repository {repo}, or the token has no access to it (404)"
        return f"hub: {url} answers {status}"
    host = url.split(f"/{repo}/")[0]
    if isinstance(error, ConnectError):
        return f"hub: {host} cannot be reached: {_line(error)}"
    if isinstance(error, HTTPError):
        return f"hub: the connection to {host} broke; run the command again: {_line(error)}"
    return f"{repo}/{file} cannot be downloaded: {_line(error)}"


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _read_record(folder: Path) -> dict[str, Any]:
    try:
        files: dict[str, Any] = json.loads((folder / RECORD).read_text())["files"]
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{folder / RECORD} is not a record of fetch: {_line(error)}") from error
    return files


def _write_record(folder: Path, files: dict[str, Any]) -> None:
    new = folder / f".{RECORD}.new"
    new.write_text(json.dumps({"files": files}, indent=2) + "\n")
    os.replace(new, folder / RECORD)
