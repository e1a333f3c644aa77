"""The command `maisi`."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import textwrap
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ._bar import Bar
from ._client import DEFAULT_URL, Client
from ._errors import InvalidRequest, MaisiError
from ._preview import preview, require_pillow
from ._variant import Variant
from ._volume import report_path

_EXIT_CODES = "exit codes: 0 done, 1 failed, 2 wrong usage, 130 cancelled (Ctrl-C)"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    args = _parser().parse_args(argv)
    # A polite kill leaves as Ctrl-C does: the server is told, and no draft file stays.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        args.run(args)
    except KeyboardInterrupt:
        return _fail(args, "Cancelled", "cancelled", 130)
    except BrokenPipeError:  # who read our output has seen enough, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (MaisiError, OSError) as error:
        return _fail(args, type(error).__name__, str(error), 1)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="maisi",
        description="Synthetic CT and MR volumes from label masks.",
        epilog=_EXIT_CODES,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    server = argparse.ArgumentParser(add_help=False)
    server.add_argument("--url", help=f"host:port of gRPC [$MAISI_URL, else {DEFAULT_URL}]")
    server.add_argument("--timeout", type=float, default=3600, help="seconds in all [%(default)s]")
    machine = argparse.ArgumentParser(add_help=False)
    machine.add_argument("--json", action="store_true", help="JSON on stdout, errors too")

    make = commands.add_parser(
        "generate",
        parents=[server, machine],
        help="make a volume from a mask, or without one",
        description="Make a volume; its report is written beside it (OUT.nii.gz, OUT.json).",
        epilog=_EXIT_CODES,
    )
    make.add_argument("mask", nargs="?", metavar="MASK", help="label map (NIfTI); none: image only")
    make.add_argument("-o", "--output", required=True, metavar="OUT", help=".nii.gz or .nii")
    make.add_argument("--variant", default="mini", help="model variant [%(default)s]")
    make.add_argument("--modality", help="such as mri_t1; `maisi info` lists them")
    make.add_argument("--seed", type=int, help="same seed, same volume [random]")
    make.add_argument("--steps", type=int, help="steps of the solver")
    make.add_argument("--guidance", type=float, help="classifier-free guidance; 0 is off")
    make.add_argument(
        "--guidance-interval",
        type=_floats,
        metavar="LOW,HIGH",
        help="where guidance is applied, from 0 (image) to 1 (noise) [0,1]",
    )
    make.add_argument("--solver", help="such as euler, heun, ab2")
    make.add_argument("--size", type=_integers, metavar="X,Y,Z", help="voxels, without a mask")
    make.add_argument("--spacing", type=_numbers, metavar="MM", help="one length, or X,Y,Z")
    make.add_argument("--top-region", metavar="R", help="such as chest, of variants with regions")
    make.add_argument("--bottom-region", metavar="R", help="such as abdomen")
    make.add_argument("--preview", metavar="PNG", help="also draw mask and volume in three planes")
    make.set_defaults(run=_generate)

    info = commands.add_parser(
        "info", parents=[server, machine], help="what the server offers", epilog=_EXIT_CODES
    )
    info.set_defaults(run=_info)

    draw = commands.add_parser(
        "preview",
        parents=[machine],
        help="draw a mask and volumes in three planes",
        description="Draw a column for each; a volume is titled by its file name.",
        epilog=_EXIT_CODES,
    )
    draw.add_argument("mask", metavar="MASK", help="label map (NIfTI)")
    draw.add_argument("volumes", nargs="+", metavar="VOLUME", help="volumes on the mask's grid")
    draw.add_argument("-o", "--output", required=True, metavar="PNG", help="picture to write")
    draw.set_defaults(run=_preview)
    return parser


def _generate(args: argparse.Namespace) -> None:
    report_at = report_path(args.output)
    # Better now than after minutes of work:
    for path in filter(None, (args.output, args.preview)):
        if not os.access(Path(path).parent, os.W_OK | os.X_OK):
            raise InvalidRequest(
                f"folder '{Path(path).parent}' does not exist or cannot be written"
            )
    if args.preview:
        require_pillow()
    started = time.monotonic()
    bar = Bar(sys.stderr)
    with Client(args.url, timeout=args.timeout) as client:
        try:
            volume = client.generate(
                args.mask,
                variant=args.variant,
                modality=args.modality,
                size=args.size,
                spacing=args.spacing,
                seed=args.seed,
                steps=args.steps,
                guidance=args.guidance,
                guidance_interval=args.guidance_interval,
                solver=args.solver,
                top_region=args.top_region,
                bottom_region=args.bottom_region,
                on_progress=bar,
            )
        finally:
            bar.clear()
    if args.preview:
        title = str(volume.report.get("modality", "volume"))
        preview(args.mask, [(title, volume)], args.preview)
    volume.save(args.output)
    if args.json:
        files = {"output": args.output, "report_path": str(report_at), "preview": args.preview}
        print(json.dumps({**files, "report": dict(volume.report)}))
    elif sys.stderr.isatty():
        shape = " x ".join(map(str, volume.image.shape))
        seed, seconds = volume.report.get("seed"), time.monotonic() - started
        print(f"{args.output}: {shape} voxels, seed {seed}, {seconds:.1f} s", file=sys.stderr)


def _info(args: argparse.Namespace) -> None:
    with Client(args.url, timeout=args.timeout) as client:
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
        "presets": ", ".join(variant.presets),
        "labels": ", ".join(f"{id_} {name}" for id_, name in labels.items()),
    }
    lines = [
        textwrap.fill(f"{name:<13} {text}", 100, initial_indent="  ", subsequent_indent=" " * 16)
        for name, text in rows.items()
        if text
    ]
    return "\n".join([variant.name, *lines])


def _preview(args: argparse.Namespace) -> None:
    names = [Path(volume).name.removesuffix(".gz").removesuffix(".nii") for volume in args.volumes]
    preview(args.mask, list(zip(names, args.volumes, strict=True)), args.output)
    if args.json:
        print(json.dumps({"output": args.output}))


def _integers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def _floats(text: str) -> list[float]:
    return [float(part) for part in text.split(",")]


def _numbers(text: str) -> list[float]:
    numbers = _floats(text)
    return numbers if len(numbers) > 1 else numbers * 3


def _fail(args: argparse.Namespace, kind: str, message: str, code: int) -> int:
    if args.json:
        print(json.dumps({"error": {"type": kind, "message": message}}))
    print(f"maisi: {message}", file=sys.stderr)
    return code
