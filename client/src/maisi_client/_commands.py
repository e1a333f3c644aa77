"""What the commands of `maisi` do."""

from __future__ import annotations

import argparse
import json
import os
import sys
import textwrap
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nibabel as nib

from ._arguments import ARGUMENTS
from ._bar import Bar
from ._client import Client
from ._dicom import save_dicom
from ._errors import InvalidRequest, MaskError
from ._files import atomic
from ._library import find_masks
from ._mask import label_image
from ._outputs import check_outputs
from ._preview import preview as draw
from ._preview import require_pillow
from ._reproduce import read_sidecar, reproduce
from ._tls import Tls
from ._variant import Variant
from ._volume import Volume, mask_path, report_path


def generate(args: argparse.Namespace) -> None:
    """Make a volume, write it and its report."""
    report_at = report_path(args.output)
    outputs = [*_volume_files(args.output), ("--preview", args.preview)]
    check_outputs([*_files_read(args), ("--source", args.source)], outputs)
    if args.preview:
        require_pillow()
    started = time.monotonic()
    with _client(args) as client, Bar(sys.stderr) as bar:
        volume = client.generate(args.mask, on_progress=bar, **_given(args))
    volume.save(args.output)
    _warn(volume.report)
    if args.preview:
        title = str(volume.report.get("modality", "volume"))
        sent = label_image(args.mask) if args.mask else None
        draw(volume.mask or sent, [(title, volume)], args.preview)
    if args.json:
        files = {"output": args.output, "report_path": str(report_at), "preview": args.preview}
        print(json.dumps({**files, "report": dict(volume.report)}))
    elif sys.stderr.isatty():
        shape = " x ".join(map(str, volume.image.shape))
        seed, seconds = volume.report.get("seed"), time.monotonic() - started
        print(f"{args.output}: {shape} voxels, seed {seed}, {seconds:.1f} s", file=sys.stderr)


def mask(args: argparse.Namespace) -> None:
    """Make or complete a mask and write it."""
    report_path(args.output)  # the name ends as it should
    check_outputs(_files_read(args), [("-o", args.output)])
    with _client(args) as client, Bar(sys.stderr) as bar:
        made = client.mask(args.mask, on_progress=bar, **_given(args))
    with atomic(Path(args.output)) as draft:
        nib.save(made, draft)
    if args.json:
        print(json.dumps({"output": args.output}))


def _volume_files(output: str) -> list[tuple[str, Path | str]]:
    """Return the files that a volume may be saved to, each with its name for an error."""
    return [
        ("-o", output),
        ("the report of -o", report_path(output)),
        ("the mask of -o", mask_path(output)),
    ]


def _files_read(args: argparse.Namespace) -> list[tuple[str, str | None]]:
    """Return the files that a request reads, each with its name for an error."""
    files = ("--ca", args.ca), ("--certificate", args.certificate), ("--key", args.key)
    return [("MASK", args.mask), *files]


def check(args: argparse.Namespace) -> None:
    """Tell what would be done."""
    with _client(args) as client:
        told = client.check(args.mask, **_given(args))
    if args.json:
        print(json.dumps(told))
        return
    sides, padded = (" x ".join(map(str, told[key])) for key in ("size", "padded_size"))
    spacing = " x ".join(f"{length:g}" for length in told["spacing"])
    seconds = told["expected_seconds"]
    rows = {
        "variant": told["variant"],
        "modality": told["modality"],
        "voxels": sides if sides == padded else f"{sides}, padded to {padded} inside",
        "spacing": f"{spacing} mm",
        "steps": f"{told['steps']} of {told['solver']}, guidance {told['guidance']:g}",
        "time": "not known yet" if seconds is None else f"about {seconds:.0f} s",
        "memory": f"{told['expected_gb']:.1f} GB for the decoder, less with a budget",
    }
    changes = {
        f"ids of {told['vocabulary']} become MAISI's": told["vocabulary"],
        "the body around the organs is added": told["body_added"],
    }
    if any(changes.values()):
        rows["mask"] = ", ".join(change for change, made in changes.items() if made)
    print("\n".join(f"{name:<10}{text}" for name, text in rows.items()))
    for label in told["labels"]:
        print(f"{label['id']:>8}  {label['name']:<32}{label['ml']:>10.1f} ml")
    _warn(told)


def _warn(report: Mapping[str, Any]) -> None:
    for warning in report.get("warnings", ()):
        print(f"maisi: warning: {warning}", file=sys.stderr)


def find(args: argparse.Namespace) -> None:
    """Print the masks of a library that hold what is asked."""
    regions = args.regions.split(",") if args.regions else []
    found = find_masks(
        args.database,
        args.folder,
        labels=args.labels,
        regions=regions,
        size=args.size,
        spacing=args.spacing,
    )
    if not found:
        raise InvalidRequest(f"no mask of '{args.database}' holds what is asked")
    paths = [str(candidate.path) for candidate in found]
    if args.json or not hasattr(sys.stdout, "buffer"):
        print(json.dumps(paths) if args.json else "\n".join(paths))
    else:  # as the file system has them, whatever the encoding of the terminal
        sys.stdout.buffer.write(b"".join(os.fsencode(path) + b"\n" for path in paths))


def again(args: argparse.Namespace) -> None:
    """Make a volume anew from its sidecar; raises Mismatch where it is another."""
    if args.output:
        request = read_sidecar(args.sidecar)["request"]
        given = [("REPORT", args.sidecar), ("--mask", args.mask), ("--source", args.source)]
        sent = [(f"the {name} of REPORT", request.get(name)) for name in ("mask", "source")]
        check_outputs([*given, *sent], _volume_files(args.output))
    with _client(args) as client, Bar(sys.stderr) as bar:
        volume = reproduce(
            client, args.sidecar, mask=args.mask, source=args.source, on_progress=bar
        )
    if args.output:
        volume.save(args.output)
    digest = volume.report["sha256"]["image"]
    print(json.dumps({"sha256": digest}) if args.json else f"the same: SHA-256 {digest}")


def info(args: argparse.Namespace) -> None:
    """Tell what the server offers."""
    with _client(args) as client:
        variants = client.info()
    if args.json:
        print(json.dumps({name: vars(variant) for name, variant in variants.items()}))
    else:
        print(
            "\n\n".join(map(_describe, variants.values())) or f"no variant is ready at {client.url}"
        )


def _describe(variant: Variant) -> str:
    def pairs(mapping: Any) -> str:
        return ", ".join(f"{key} {value}" for key, value in mapping.items())

    labels = variant.labels if variant.masks else {}
    limits = {key: f"{low:g}..{high:g}" for key, (low, high) in variant.limits.items()}
    rows = {
        "license": variant.license,
        "modalities": ", ".join(variant.modalities),
        "masks": "" if variant.masks else "none: it makes images without",
        "regions": ", ".join(variant.regions),
        "size": pairs(variant.size),
        "spacing (mm)": pairs(variant.spacing),
        "limits": pairs(limits),
        "solvers": ", ".join(variant.solvers),
        "defaults": pairs(variant.defaults),
        "labels": ", ".join(f"{id_} {name}" for id_, name in labels.items()),
    }
    lines = [_row(name, text) for name, text in rows.items() if text]
    return "\n".join([variant.name, *lines, *_presets(variant)])


def _row(name: str, text: str) -> str:
    return textwrap.fill(f"{name:<13} {text}", 100, initial_indent="  ", subsequent_indent=" " * 16)


def _presets(variant: Variant) -> list[str]:
    """Return a table of what the model was trained for."""
    scans = sum(preset.get("scans", 0) for preset in variant.presets.values())
    rows = [("preset", "modality", "voxels", "spacing (mm)", "training data")] * bool(
        variant.presets
    )
    for name, preset in variant.presets.items():
        share = preset.get("share", preset["scans"] / max(scans, 1) if "scans" in preset else None)
        told = "" if share is None else f"{100 * share:.2g} %"
        sides, lengths = (" x ".join(f"{n:g}" for n in preset[key]) for key in ("size", "spacing"))
        rows.append((name, preset["modality"], sides, lengths, told))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)
    caveats: dict[str, list[str]] = {}
    for name, preset in variant.presets.items():
        if "caveat" in preset:
            caveats.setdefault(preset["caveat"], []).append(name)
    notes = (_row("caveat", f"{', '.join(names)}: {text}") for text, names in caveats.items())
    return [f"  {line}" for line in lines] + list(notes) if variant.presets else []


def preview(args: argparse.Namespace) -> None:
    """Draw a mask and volumes."""
    volumes = [*args.volumes, *args.volume]
    pictures = [("MASK", args.mask), *(("VOLUME", volume) for volume in volumes)]
    check_outputs(pictures, [("-o", args.output)])
    names = [Path(volume).name.removesuffix(".gz").removesuffix(".nii") for volume in volumes]
    try:
        draw(args.mask, list(zip(names, volumes, strict=True)), args.output)
    except MaskError as error:
        raise MaskError(f"{error}; a volume without a mask is given as --volume") from None
    if args.json:
        print(json.dumps({"output": args.output}))


def dicom(args: argparse.Namespace) -> None:
    """Write a volume and its mask as DICOM."""
    volume = Volume.load(args.volume, report=args.report)
    files = save_dicom(volume, args.to, mask=args.mask)
    if args.json:
        print(json.dumps({"output": args.to, "files": [str(path) for path in files]}))


def _client(args: argparse.Namespace) -> Client:
    tls = Tls.of(args.ca, args.certificate, args.key)
    return Client(args.url, tls=tls, timeout=args.timeout)


def _given(args: argparse.Namespace) -> dict[str, Any]:
    """Return what the command line says of a request's arguments."""
    return {name: value for name, value in vars(args).items() if name in ARGUMENTS}
