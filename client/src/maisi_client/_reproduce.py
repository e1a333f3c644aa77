"""Reproduction of a volume from its sidecar, and a check that it is the same."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

from ._arguments import ARGUMENTS, Picture
from ._client import Client
from ._errors import InvalidRequest, Mismatch, ServerError
from ._provenance import picture_digest
from ._validation import check_form, read_json_file
from ._variant import choose_variant
from ._volume import Progress, Volume

_SIDECAR = {
    "request": {"mask?": (str, type(None)), "source?": (str, type(None))},
    "sha256": {"image": str, "mask?": str, "source?": str},
    "variant": str,
    "weights": dict,
    "versions": dict,
}


def reproduce(
    client: Client,
    sidecar: str | os.PathLike[str],
    *,
    mask: Picture | None = None,
    source: Picture | None = None,
    on_progress: Callable[[Progress], object] | None = None,
) -> Volume:
    """Make the volume of a report (`NAME.json`) again; return it if it is the same to the bit.

    `mask` and `source` are needed if the original files have moved. Raises `Mismatch`, which names
    the digest that differs: that of the mask or source or of the server's weights, before the
    request is sent, or that of the result. Raises `InvalidRequest` for a report that cannot be read
    or has no digests, and what `Client.generate` raises.
    """
    report = read_sidecar(sidecar)
    request, digests = dict(report["request"]), dict(report["sha256"])
    pictures = {
        name: _checked_picture(name, picture or request.pop(name, None), digests[name], request)
        for name, picture in (("mask", mask), ("source", source))
        if name in digests
    }
    _check_weights(client, str(report["variant"]), report["weights"])
    volume = client.generate(**{**request, **pictures}, on_progress=on_progress)
    for name, sha256 in volume.report["sha256"].items():
        if sha256 != digests.get(name):
            raise Mismatch(
                f"the {name} has SHA-256 {sha256}, not {digests.get(name)};"
                f" {_changes(report, volume.report)}"
            )
    return volume


def read_sidecar(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the report of a volume.

    Raises `InvalidRequest` without request and digests, and for arguments of another version.
    """
    try:
        report = read_json_file(path)
        check_form("the report", report, _SIDECAR)
        if unknown := sorted(report["request"].keys() - {"mask", *ARGUMENTS}):
            raise ValueError(f"request has {', '.join(map(repr, unknown))}, which is no argument")
    except (OSError, ValueError, ServerError) as error:
        raise InvalidRequest(
            f"'{os.fspath(path)}' is not the report of a volume with request and sha256: {error}"
        ) from error
    return report


def _checked_picture(
    name: str, picture: Picture | None, expected: str, request: Mapping[str, Any]
) -> Picture:
    """Return the picture if it has the `expected` digest."""
    if picture is None:
        raise InvalidRequest(f"the {name} was no file; give the same {name} again")
    sha256 = picture_digest(name, picture, request.get("vocabulary"))
    if sha256 != expected:
        raise Mismatch(f"the {name} has SHA-256 {sha256}; the volume was made of {expected}")
    return picture


def _check_weights(client: Client, variant: str, expected: Mapping[str, str]) -> None:
    for network, sha256 in choose_variant(variant, client.info()).weights.items():
        if sha256 != expected.get(network):
            raise Mismatch(
                f"weights of {network}: the server has SHA-256 {sha256}; the volume was made with"
                f" {expected.get(network)}"
            )


def _changes(then: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Return what differs between the servers of two reports."""
    before, after = (
        {**report.get("versions", {}), "bfloat16": report.get("bfloat16", False)}
        for report in (then, now)
    )
    changes = (
        f"{name} was {before.get(name)} and is {value}"
        for name, value in after.items()
        if before.get(name) != value
    )
    return ", ".join(changes) or "the versions are the same, so processor or engines differ"
