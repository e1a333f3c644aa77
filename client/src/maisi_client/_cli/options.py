"""The options that several commands share, and the parsers of their values."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any, TypeAlias

from .._datasets.value_parsers import integers
from .._transport.address import DEFAULT_URL
from .usage import Parser

Commands: TypeAlias = "argparse._SubParsersAction[Parser]"

EXIT_CODES = "exit codes: 0 done, 1 failed, 2 wrong usage, 130 cancelled (Ctrl-C)"


def server_options() -> Parser:
    """Return the parent parser of every command that calls a server."""
    parent = Parser(add_help=False)
    add = parent.add_argument_group("server").add_argument
    add("--url", help=f"host:port of gRPC, or several with commas [$MAISI_URL, else {DEFAULT_URL}]")
    add("--ca", metavar="PEM", help="TLS: certificate of the server's CA [$MAISI_CA]")
    add("--certificate", metavar="PEM", help="mTLS: certificate of the client [$MAISI_CERTIFICATE]")
    add("--key", metavar="PEM", help="mTLS: key of that certificate [$MAISI_KEY]")
    add(
        "--timeout",
        type=float,
        default=3600,
        metavar="S",
        help="limit of a request, in seconds [3600]",
    )
    return parent


def json_option() -> Parser:
    """Return the parent parser of every command that can print JSON."""
    parent = Parser(add_help=False)
    parent.add_argument("--json", action="store_true", help="print JSON, also for errors")
    return parent


def generation_options(parser: argparse.ArgumentParser) -> None:
    """Add every argument of `Client.generate`."""
    mask_options(parser, "volume")
    contrast_options(parser)
    add = parser.add_argument
    add("--source", metavar="VOLUME", help="volume (NIfTI) to start from: image to image")
    add("--strength", type=float, metavar="S", help="amount of noise on the source, 0 to 1 [0.8]")
    add(
        "--redraws",
        type=int,
        metavar="N",
        help="maximum number of new samples if the volume does not follow its mask [0]",
    )
    add(
        "--guidance-interval",
        type=floats,
        metavar="LOW,HIGH",
        help="interval of time with guidance, from 0 (image) to 1 (noise) [0,1]",
    )
    add("--solver", metavar="NAME", help="solver, such as euler; `maisi info` lists them")
    add("--top-region", metavar="R", help="ddpm-ct: region at the top, such as chest")
    add("--bottom-region", metavar="R", help="ddpm-ct: region at the bottom, such as abdomen")


def mask_options(parser: argparse.ArgumentParser, result: str) -> None:
    """Add every argument of `Client.mask`; `result` names the output in the help of `--seed`."""
    grid_options(parser)
    add = parser.add_argument
    add(
        "--anatomy",
        metavar="A=S,...",
        help="generate the mask from sizes, 0 to 1; `maisi info` lists them:"
        " 'liver=0.5, hepatic tumor=0.3'",
    )
    add("--augment", action="store_true", default=None, help="change MASK a little, by the seed")
    add("--organs", metavar="A,...", help="labels that the written mask keeps [all]")
    add(
        "--seed",
        type=int,
        metavar="N",
        help=f"seed; the same seed gives the same {result} [random]",
    )


def grid_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the variant, the grid and the vocabulary of label ids."""
    add = parser.add_argument
    add(
        "--variant",
        metavar="NAME",
        help="variant; `maisi info` lists them [$MAISI_VARIANT, else the server's only one]",
    )
    add(
        "--vocabulary",
        metavar="V",
        help="vocabulary of the ids in MASK, such as totalsegmentator-v2 [maisi]",
    )
    add("--size", type=integers, metavar="X,Y,Z", help="size in voxels, if there is no MASK")
    add(
        "--spacing",
        type=lengths,
        metavar="MM",
        help="voxel size of the generation: one number, or X,Y,Z",
    )


def contrast_options(
    parser: argparse.ArgumentParser,
    modality: Callable[[str], Any] = str,
    modality_help: str = "modality, such as mri_t1; `maisi info` lists them",
) -> None:
    """Add the options of the modality, the number of steps and guidance."""
    add = parser.add_argument
    add(
        "--preset",
        metavar="NAME",
        help="name of a size, spacing and modality; `maisi info` lists them",
    )
    add("--modality", type=modality, help=modality_help)
    add("--steps", type=int, help="steps of the solver")
    add("--guidance", type=float, help="scale of classifier-free guidance; 0 disables it")


def count(text: str) -> int:
    """Read a whole number of 1 or more."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is less than 1")
    return number


def floats(text: str) -> list[float]:
    """Read numbers that are separated by commas."""
    return [float(part) for part in text.split(",")]


def lengths(text: str) -> list[float]:
    """Read three lengths, or one for all axes."""
    numbers = floats(text)
    return numbers if len(numbers) > 1 else numbers * 3
