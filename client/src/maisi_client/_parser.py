"""What the command `maisi` takes: its words, their meaning and their help."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from . import _commands, _plan_command
from . import _layouts as layouts
from ._client import DEFAULT_URL
from ._completion import SHELLS, script
from ._plan import integers

_EXIT_CODES = "exit codes: 0 done, 1 failed, 2 wrong usage, 130 cancelled (Ctrl-C)"


def parser() -> argparse.ArgumentParser:
    """Return the parser; `run` of what it parses does the work."""
    whole = argparse.ArgumentParser(
        prog="maisi",
        description="Synthetic CT and MR volumes from label masks, made by a MAISI Triton server."
        " `maisi COMMAND --help` tells the options of a command.",
        epilog=_EXIT_CODES,
    )
    commands = whole.add_subparsers(required=True, metavar="COMMAND")

    server = argparse.ArgumentParser(add_help=False)
    add = server.add_argument_group("server").add_argument
    add("--url", help=f"gRPC at host:port, several with commas [$MAISI_URL, else {DEFAULT_URL}]")
    add("--ca", metavar="PEM", help="TLS: certificate that the server's is signed by [$MAISI_CA]")
    add("--certificate", metavar="PEM", help="mTLS: this client's own [$MAISI_CERTIFICATE]")
    add("--key", metavar="PEM", help="mTLS: the key of that certificate [$MAISI_KEY]")
    add("--timeout", type=float, default=3600, metavar="S", help="seconds for a request [3600]")
    machine = argparse.ArgumentParser(add_help=False)
    machine.add_argument("--json", action="store_true", help="print JSON, errors too")

    make = commands.add_parser(
        "generate",
        parents=[server, machine],
        help="make a volume from a mask, or without one",
        description="Make a volume, on the mask's own grid; its report is written beside it"
        " (OUT.nii.gz, OUT.json). What is not given takes the variant's default.",
        epilog=_EXIT_CODES,
    )
    make.add_argument(
        "mask",
        nargs="?",
        metavar="MASK",
        help="label map (NIfTI, DICOM SEG); without one, an image alone",
    )
    make.add_argument(
        "-o", "--output", required=True, metavar="OUT", help="volume to write, .nii.gz or .nii"
    )
    make.add_argument(
        "--source", metavar="VOLUME", help="volume (NIfTI) to start from: image to image"
    )
    make.add_argument(
        "--strength", type=float, metavar="S", help="noise put on the source, 0 to 1 [0.8]"
    )
    make.add_argument(
        "--redraws", type=int, metavar="N", help="times to retry what does not follow its mask [0]"
    )
    make.add_argument("--seed", type=int, metavar="N", help="same seed, same volume [random]")
    make.add_argument(
        "--guidance-interval",
        type=_floats,
        metavar="LOW,HIGH",
        help="where guidance is applied, from 0 (image) to 1 (noise) [0,1]",
    )
    make.add_argument("--solver", metavar="NAME", help="such as euler; `maisi info` lists them")
    make.add_argument("--top-region", metavar="R", help="body region, such as chest, of ddpm-ct")
    make.add_argument("--bottom-region", metavar="R", help="body region, such as abdomen")
    make.add_argument("--preview", metavar="PNG", help="also draw mask and volume in three planes")
    make.set_defaults(run=_commands.generate)

    look = commands.add_parser(
        "check",
        parents=[server, machine],
        help="what generate would do, without doing it",
        description="Tell what generate would make: labels, padding, memory, time, and warnings"
        " of what is unlike the training data. Nothing is made.",
        epilog=_EXIT_CODES,
    )
    look.add_argument(
        "mask", nargs="?", metavar="MASK", help="label map (NIfTI, DICOM SEG), if there is one"
    )
    look.set_defaults(run=_commands.check)

    masks = commands.add_parser(
        "mask",
        parents=[server, machine],
        help="a mask alone: made of an anatomy, or one completed",
        description="Write the mask that generate would follow, in MAISI's label ids.",
        epilog=_EXIT_CODES,
    )
    masks.add_argument(
        "mask", nargs="?", metavar="MASK", help="label map (NIfTI, DICOM SEG) to complete"
    )
    masks.add_argument(
        "-o", "--output", required=True, metavar="OUT", help="mask to write, .nii.gz or .nii"
    )
    masks.add_argument("--seed", type=int, metavar="N", help="same seed, same mask [random]")
    masks.set_defaults(run=_commands.mask)

    for command in (look, make, masks):
        _grid(command)
    for command in (look, make):
        _what(command)
    for command in (make, masks):
        _anatomy(command)

    table = commands.add_parser(
        "dataset",
        parents=[server, machine],
        help="make every volume of a plan; can be stopped and gone on with",
        description="Make the rows of a plan that are not there yet; see docs/datasets.md.",
        epilog=_EXIT_CODES,
    )
    table.add_argument("plan", metavar="PLAN", help=".csv or .jsonl, a row a volume")
    table.add_argument("--to", required=True, metavar="DIR", help="folder, made if missing")
    table.add_argument("--jobs", type=_count, default=2, metavar="N", help="volumes at a time [2]")
    table.add_argument(
        "--layout", choices=layouts.NAMES, default="plain", help="whose folders [%(default)s]"
    )
    table.add_argument(
        "--attempts", type=_count, default=3, metavar="N", help="tries of a row that fails [3]"
    )
    table.add_argument(
        "--shard",
        type=_shard,
        default=(0, 1),
        metavar="I/N",
        help="only the rows I, I+N, I+2N, ..., counted from 0",
    )
    table.set_defaults(run=_commands.dataset)

    again = commands.add_parser(
        "reproduce",
        parents=[server, machine],
        help="make a volume again from its report, and prove it the same",
        description="Make the volume of a report again; fails where a digest differs.",
        epilog=_EXIT_CODES,
    )
    again.add_argument("sidecar", metavar="REPORT", help="the .json beside a volume")
    again.add_argument("-o", "--output", metavar="OUT", help="also write it: .nii.gz or .nii")
    again.add_argument("--mask", metavar="MASK", help="where the mask is now [where it was]")
    again.add_argument("--source", metavar="VOLUME", help="where the source is now [where it was]")
    again.set_defaults(run=_commands.again)

    draft = commands.add_parser(
        "plan",
        parents=[server, machine],
        help="write a plan for dataset: contrasts in shares, masks in turn",
        description="Write a plan of N rows; see docs/datasets.md. --like alone asks a server.",
        epilog=_EXIT_CODES,
    )
    draft.add_argument("plan", metavar="PLAN", help="to write, .csv or .jsonl")
    draft.add_argument("-n", "--rows", type=_count, required=True, metavar="N", help="volumes")
    draft.add_argument(
        "--masks", nargs="+", default=[], metavar="PATH", help="label maps, folders of them"
    )
    draft.add_argument("--augment", action="store_true", help="make each mask a little different")
    draft.add_argument(
        "--like",
        nargs="+",
        metavar="CSV",
        help="metadata of MR-RATE: its contrasts, planes, fields of view and spacings",
    )
    draft.add_argument("--seed", type=int, default=0, help="of the plan; same seed, same plan [0]")
    _grid(draft)
    _what(draft, _shares, "with shares: mri_t1=0.5,mri_flair=0.5")
    draft.set_defaults(run=_plan_command.plan)

    find = commands.add_parser(
        "find",
        parents=[machine],
        help="search a library of masks",
        description="Print the masks of a library that hold all that is asked, the nearest first;"
        " see docs/generation.md.",
        epilog=_EXIT_CODES,
    )
    find.add_argument("database", metavar="JSON", help="such as NVIDIA's candidate_masks.json")
    find.add_argument("folder", metavar="FOLDER", help="where the masks lie")
    find.add_argument(
        "--labels", type=integers, default=[], metavar="ID,...", help="ids it must hold"
    )
    find.add_argument("--regions", metavar="R,...", help="regions it must show")
    find.add_argument("--size", type=integers, metavar="X,Y,Z", help="voxels to be near to")
    find.add_argument("--spacing", type=_numbers, metavar="MM", help="to be near to: one, or X,Y,Z")
    find.set_defaults(run=_commands.find)

    info = commands.add_parser(
        "info",
        parents=[server, machine],
        help="what the server offers",
        description="Tell of every variant: modalities, labels, limits, defaults and presets.",
        epilog=_EXIT_CODES,
    )
    info.set_defaults(run=_commands.info)

    draw = commands.add_parser(
        "preview",
        parents=[machine],
        help="draw a mask and volumes in three planes",
        description="Draw a column for the mask and for each volume, titled by its file name.",
        epilog=_EXIT_CODES,
    )
    draw.add_argument("mask", metavar="MASK", help="label map (NIfTI, DICOM SEG)")
    draw.add_argument("volumes", nargs="+", metavar="VOLUME", help="volumes on the mask's grid")
    draw.add_argument("-o", "--output", required=True, metavar="PNG", help="picture to write")
    draw.set_defaults(run=_commands.preview)

    dicom = commands.add_parser(
        "dicom",
        parents=[machine],
        help="write a volume and its mask as DICOM",
        description="Write a CT or MR series, and the mask as a Segmentation; see docs/dicom.md.",
        epilog=_EXIT_CODES,
    )
    dicom.add_argument("volume", metavar="VOLUME", help="NIfTI, its report beside it")
    dicom.add_argument("--to", required=True, metavar="DIR", help="new folder of the series")
    dicom.add_argument("--mask", metavar="MASK", help="label map it follows [VOLUME_mask]")
    dicom.set_defaults(run=_commands.dicom)

    words = commands.add_parser(
        "completion",
        help="let the shell complete commands, options and files",
        description="Print a script for the shell. bash: `maisi completion bash >"
        " ~/.local/share/bash-completion/completions/maisi`. zsh: write it to a file `_maisi` in"
        " a folder of $fpath. New shells know it.",
        epilog=_EXIT_CODES,
    )
    words.add_argument("shell", choices=SHELLS, help="whose")
    words.set_defaults(run=lambda args: print(script(whole, args.shell)), json=False)
    return whole


def _grid(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--variant", default="mini", metavar="NAME", help="model, `maisi info` lists them [mini]")
    add("--vocabulary", metavar="V", help="label ids of MASK, such as totalsegmentator-v2 [maisi]")
    add("--size", type=integers, metavar="X,Y,Z", help="voxels, where no MASK is given")
    add("--spacing", type=_numbers, metavar="MM", help="voxel size to work at: one, or X,Y,Z")


def _anatomy(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--anatomy",
        metavar="A=S,...",
        help="make the mask, of sizes 0 to 1: 'liver=0.5, hepatic tumor=0.3'",
    )
    add("--augment", action="store_true", default=None, help="vary MASK a little, by the seed")
    add("--organs", metavar="A,...", help="labels to keep in the mask that is written [all]")


def _what(
    parser: argparse.ArgumentParser,
    modality: Callable[[str], Any] = str,
    told: str = "such as mri_t1; `maisi info` lists them",
) -> None:
    add = parser.add_argument
    add("--preset", metavar="NAME", help="size, spacing and modality by name, see info")
    add("--modality", type=modality, help=told)
    add("--steps", type=int, help="steps of the solver")
    add("--guidance", type=float, help="classifier-free guidance; 0 is off")


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is not 1 or more")
    return number


def _shard(text: str) -> tuple[int, int]:
    index, _, count = text.partition("/")
    if not 0 <= int(index) < int(count):
        raise argparse.ArgumentTypeError(f"{text} is not I/N with I from 0 to N-1")
    return int(index), int(count)


def _shares(text: str) -> dict[str, float]:
    """Read `mri_t1=2,mri_t2=1`; without a number a share is 1."""
    parts = [part.partition("=") for part in text.split(",")]
    shares = {name.strip(): float(share or 1) for name, _, share in parts}
    if len(shares) < len(parts) or not all(shares):
        raise argparse.ArgumentTypeError(f"'{text}' has a name twice or none")
    return shares


def _floats(text: str) -> list[float]:
    return [float(part) for part in text.split(",")]


def _numbers(text: str) -> list[float]:
    numbers = _floats(text)
    return numbers if len(numbers) > 1 else numbers * 3
