"""`python -m export`: fetch weights, build models for Triton from them, verify their outputs.

    python -m export fetch rflow-ct --to checkpoints --accept-license
    python -m export build rflow-ct --checkpoints checkpoints --target tensorrt --precision fp16
    python -m export verify rflow-ct --checkpoints checkpoints

`python -m export mini` is short for `python -m export build mini`.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path
from typing import NoReturn

from export import build, bundle, fetch, model_configs, random_weights, verify
from export import variant as variants
from export.files import ROOT
from export.job import Job, limit
from export.variant import PRECISIONS, Variant


def _build(args: argparse.Namespace) -> int:
    variant = _variant(args)
    if args.max_size:
        variant = limit(variant, args.max_size)
    _write_random_weights(variant, args)
    job = Job(
        variant,
        args.checkpoints,
        args.repository,
        args.cache,
        args.target,
        args.precision,
        tuple(args.compute_capability),
        args.version,
    )
    build.build(job)
    return 0


def _verify(args: argparse.Namespace) -> int:
    variant = _variant(args)
    _write_random_weights(variant, args)
    comparisons = verify.verify(variant, args.checkpoints, args.cache, _to_stderr)
    print(verify.table(comparisons))
    if args.json:
        args.json.write_text(verify.as_json(variant, comparisons) + "\n")
    return 0 if all(comparison.holds for comparison in comparisons) else 1


def _variant(args: argparse.Namespace) -> Variant:
    """Return the variant; if the checkpoint folder is a MONAI bundle, with the bundle's files."""
    variant = variants.load(args.variant)
    is_bundle = bundle.is_bundle(args.checkpoints)
    return bundle.on_bundle(variant, args.checkpoints) if is_bundle else variant


def _write_random_weights(variant: Variant, args: argparse.Namespace) -> None:
    if args.random_weights:
        random_weights.write(variant, args.checkpoints)


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _size(text: str) -> tuple[int, int, int]:
    x, y, z = (int(side) for side in text.split(","))
    return x, y, z


def _version(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is less than 1")
    return number


def _parser() -> argparse.ArgumentParser:
    program = os.environ.get("MAISI_PROGRAM", "python -m export")
    parser = argparse.ArgumentParser(
        prog=program,
        description=(__doc__ or "").replace("python -m export", program),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    fetch.add_arguments(verbs.add_parser("fetch", help="download official weights"))
    build_parser = verbs.add_parser("build", help="build the models of a variant from checkpoints")
    verify_parser = verbs.add_parser("verify", help="compare the graphs and plans with PyTorch")
    for subparser in (build_parser, verify_parser):
        subparser.add_argument(
            "variant", help=f"one of {', '.join(variants.names())}, or a .toml file"
        )
        subparser.add_argument(
            "--checkpoints",
            type=Path,
            default=ROOT / "export" / "checkpoints",
            help="folder of the weights, or a MONAI bundle like maisi_ct_generative "
            "(default: %(default)s)",
        )
        subparser.add_argument(
            "--cache",
            type=Path,
            default=Path(os.environ.get("MAISI_EXPORT_CACHE") or ROOT / "build" / "export"),
            help="folder of finished graphs and plans (default: %(default)s)",
        )
        subparser.add_argument(
            "--random-weights",
            action="store_true",
            help="first write random checkpoints of the official layout and size to --checkpoints",
        )
    build_parser.add_argument(
        "--target",
        choices=model_configs.TARGETS,
        default="onnx",
        help="format of the networks (default: %(default)s)",
    )
    build_parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        default="fp32",
        help="type of the weights (default: %(default)s)",
    )
    build_parser.add_argument(
        "--repository",
        type=Path,
        default=Path(os.environ.get("MAISI_MODELS") or ROOT / "model_repository"),
        help="Triton's model repository (default: %(default)s)",
    )
    build_parser.add_argument(
        "--compute-capability",
        nargs="+",
        default=[],
        metavar="X.Y",
        help="GPUs that plans are built for, such as 8.9 (default: the GPU of this machine)",
    )
    build_parser.add_argument(
        "--version",
        type=_version,
        default=1,
        metavar="N",
        help="version of the models; other versions are kept (docs/how-to/operations.md)",
    )
    build_parser.add_argument(
        "--max-size", type=_size, metavar="X,Y,Z", help="largest volume to serve, in voxels"
    )
    verify_parser.add_argument("--json", type=Path, help="also write the rows to this file")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return its exit status, 1 for an error, which is on stderr."""
    words = sys.argv[1:] if arguments is None else arguments
    if words and words[0] not in ("fetch", "build", "verify") and not words[0].startswith("-"):
        words = ["build", *words]
    args = _parser().parse_args(words)
    signal.signal(signal.SIGTERM, _end)  # process 1 of a container would ignore it
    verbs = {"fetch": fetch.run, "build": _build, "verify": _verify}
    try:
        return verbs[args.verb](args)
    except (ValueError, OSError) as error:
        _to_stderr(f"export: {error}")
        return 1


def _end(number: int, frame: object) -> NoReturn:
    """End so that temporary folders are removed."""
    sys.exit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
