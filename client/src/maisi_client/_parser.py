"""What the command `maisi` takes: its words, their meaning and their help."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from importlib import import_module

import maisi_client

from ._cells import integers
from ._completion import SHELLS, script
from ._dataset_files import LAYOUTS
from ._options import (
    contrast_options,
    count,
    generation_options,
    grid_options,
    json_option,
    lengths,
    mask_options,
    server_options,
    shard,
    shares,
)
from ._usage import Parser

_EXIT_CODES = "exit codes: 0 done, 1 failed, 2 wrong usage, 130 cancelled (Ctrl-C)"


def parser() -> argparse.ArgumentParser:
    """Return the parser; `run` of what it parses does the work."""
    whole = Parser(
        prog="maisi",
        description="Synthetic CT and MR volumes from label masks, made by a MAISI Triton server."
        " `maisi COMMAND --help` tells the options of a command.",
        epilog=_EXIT_CODES,
    )
    whole.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    commands = whole.add_subparsers(required=True, metavar="COMMAND")

    server, machine = server_options(), json_option()

    make = commands.add_parser(
        "generate",
        parents=[server, machine],
        help="make a volume from a mask, or without one",
        description="Make a volume, on the mask's own grid; its report is written beside it"
        " (OUT.nii.gz, OUT.json). Files of these names are replaced, but never an input of the"
        " command. What is not given takes the variant's default.",
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
    make.add_argument("--preview", metavar="PNG", help="also draw mask and volume in three planes")
    generation_options(make)
    make.set_defaults(run=_late("generate"))

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
    generation_options(look)
    look.set_defaults(run=_late("check"))

    masks = commands.add_parser(
        "mask",
        parents=[server, machine],
        help="a mask alone: made of an anatomy, or one completed",
        description="Write the mask that generate would follow, in MAISI's label ids. OUT is"
        " replaced if it exists, unless it is MASK.",
        epilog=_EXIT_CODES,
    )
    masks.add_argument(
        "mask", nargs="?", metavar="MASK", help="label map (NIfTI, DICOM SEG) to complete"
    )
    masks.add_argument(
        "-o", "--output", required=True, metavar="OUT", help="mask to write, .nii.gz or .nii"
    )
    mask_options(masks, "mask")
    masks.set_defaults(run=_late("mask"))

    table = commands.add_parser(
        "dataset",
        parents=[server, machine],
        help="make every volume of a plan; can be stopped and gone on with",
        description="Make the rows of a plan that are not there yet; see docs/datasets.md.",
        epilog=_EXIT_CODES,
    )
    table.add_argument("plan", metavar="PLAN", help=".csv or .jsonl, a row a volume")
    table.add_argument("--to", required=True, metavar="DIR", help="folder, made if missing")
    table.add_argument("--jobs", type=count, default=2, metavar="N", help="volumes at a time [2]")
    table.add_argument(
        "--layout", choices=LAYOUTS, default="plain", help="whose folders [%(default)s]"
    )
    table.add_argument(
        "--attempts", type=count, default=3, metavar="N", help="tries of a row that fails [3]"
    )
    table.add_argument(
        "--shard",
        type=shard,
        default=(0, 1),
        metavar="I/N",
        help="only the rows I, I+N, I+2N, ..., counted from 0",
    )
    table.set_defaults(run=_late("dataset", "_dataset_command"))

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
    again.set_defaults(run=_late("again"))

    draft = commands.add_parser(
        "plan",
        parents=[server, machine],
        help="write a plan for dataset: contrasts in shares, masks in turn",
        description="Write a plan of N rows; see docs/datasets.md. --like alone asks a server.",
        epilog=_EXIT_CODES,
    )
    draft.add_argument("plan", metavar="PLAN", help="to write, .csv or .jsonl")
    draft.add_argument("-n", "--rows", type=count, required=True, metavar="N", help="volumes")
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
    grid_options(draft)
    contrast_options(draft, shares, "with shares: mri_t1=0.5,mri_flair=0.5")
    draft.set_defaults(run=_late("plan", "_plan_command"))

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
    find.add_argument("--spacing", type=lengths, metavar="MM", help="to be near to: one, or X,Y,Z")
    find.set_defaults(run=_late("find"))

    info = commands.add_parser(
        "info",
        parents=[server, machine],
        help="what the server offers",
        description="Tell of every variant: modalities, labels, limits, defaults and presets.",
        epilog=_EXIT_CODES,
    )
    info.set_defaults(run=_late("info"))

    draw = commands.add_parser(
        "preview",
        parents=[machine],
        help="draw a mask and volumes in three planes",
        description="Draw a column for the mask, if there is one, and for each volume, titled by"
        " its file name.",
        epilog=_EXIT_CODES,
    )
    draw.add_argument("mask", nargs="?", metavar="MASK", help="label map (NIfTI, DICOM SEG)")
    draw.add_argument("volumes", nargs="*", metavar="VOLUME", help="volumes on the mask's grid")
    draw.add_argument(
        "--volume",
        action="append",
        default=[],
        metavar="VOLUME",
        help="a volume without a MASK before it; may be repeated",
    )
    draw.add_argument("-o", "--output", required=True, metavar="PNG", help="picture to write")
    draw.set_defaults(run=_late("preview"))

    dicom = commands.add_parser(
        "dicom",
        parents=[machine],
        help="write a volume and its mask as DICOM",
        description="Write a CT or MR series, and the mask as a Segmentation; see docs/dicom.md.",
        epilog=_EXIT_CODES,
    )
    dicom.add_argument("volume", metavar="VOLUME", help="NIfTI")
    dicom.add_argument("--to", required=True, metavar="DIR", help="new folder of the series")
    dicom.add_argument("--mask", metavar="MASK", help="label map it follows [VOLUME_mask]")
    dicom.add_argument(
        "--report",
        metavar="REPORT",
        help="the volume's report [beside it, else in the dataset that it is of]",
    )
    dicom.set_defaults(run=_late("dicom"))

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


class _Version(argparse.Action):
    """Print the version; `action="version"` would look it up for every command."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        print(f"maisi {maisi_client.__version__}")
        parser.exit()


def _late(function: str, module: str = "_commands") -> Callable[[argparse.Namespace], None]:
    """Return a command that imports what it needs when it runs, so that help comes at once."""

    def run(args: argparse.Namespace) -> None:
        getattr(import_module(f".{module}", __package__), function)(args)

    return run
