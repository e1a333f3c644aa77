"""`python -m export`: fetch weights, build a served model of them, verify that nothing was lost.

    python -m export fetch rflow-ct --to checkpoints --accept-license
    python -m export build rflow-ct --checkpoints checkpoints --target tensorrt --precision fp16
    python -m export verify rflow-ct --checkpoints checkpoints

`python -m export mini` is short for `python -m export build mini`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from export import build, fetch, random_weights, variant, verify
from export.build import Job
from export.variant import PRECISIONS

ROOT = Path(__file__).parent.parent


def _build(given: argparse.Namespace) -> int:
    chosen = variant.load(given.variant)
    if given.max_size:
        chosen = build.limit(chosen, given.max_size)
    _weights(given)
    job = Job(
        chosen,
        given.checkpoints,
        given.repository,
        given.cache,
        given.target,
        given.precision,
        tuple(given.compute_capability),
        given.version,
    )
    build.build(job)
    return 0


def _verify(given: argparse.Namespace) -> int:
    chosen = variant.load(given.variant)
    _weights(given)
    rows = verify.verify(chosen, given.checkpoints, given.cache, _aside)
    print(verify.table(rows))
    if given.json:
        given.json.write_text(verify.as_json(chosen, rows) + "\n")
    return 0 if all(row.holds for row in rows) else 1


def _weights(given: argparse.Namespace) -> None:
    if given.random_weights:
        random_weights.write(variant.load(given.variant), given.checkpoints)


def _aside(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _size(text: str) -> tuple[int, int, int]:
    x, y, z = (int(side) for side in text.split(","))
    return x, y, z


def _version(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is not 1 or more")
    return number


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m export",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    fetch.add_arguments(verbs.add_parser("fetch", help="download official weights"))
    known = f"one of {', '.join(variant.names())}, or a .toml file"
    building = verbs.add_parser("build", help="checkpoint -> ONNX -> engine -> model repository")
    verifying = verbs.add_parser("verify", help="compare PyTorch, ONNX Runtime and engines")
    for one in (building, verifying):
        one.add_argument("variant", help=known)
        one.add_argument(
            "--checkpoints",
            type=Path,
            default=ROOT / "export" / "checkpoints",
            help="folder of the weights (default: %(default)s)",
        )
        one.add_argument(
            "--cache",
            type=Path,
            default=ROOT / "build" / "export",
            help="where finished graphs and engines are kept (default: %(default)s)",
        )
        one.add_argument(
            "--random-weights",
            action="store_true",
            help="first write random checkpoints of the official layout and size there",
        )
    building.add_argument("--target", choices=build.TARGETS, default="onnx")
    building.add_argument("--precision", choices=PRECISIONS, default="fp32")
    building.add_argument(
        "--repository",
        type=Path,
        default=ROOT / "model_repository",
        help="Triton's model repository (default: %(default)s)",
    )
    building.add_argument(
        "--compute-capability",
        nargs="+",
        default=[],
        metavar="X.Y",
        help="GPUs that engines are built for, such as 8.9 (default: the one at hand)",
    )
    building.add_argument(
        "--version",
        type=_version,
        default=1,
        metavar="N",
        help="of the models; other versions stay beside it (docs/operations.md)",
    )
    building.add_argument(
        "--max-size", type=_size, metavar="X,Y,Z", help="largest volume to serve, in voxels"
    )
    verifying.add_argument("--json", type=Path, help="write the rows to this file as well")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return its exit status: 1 for a failure, told in one sentence."""
    words = sys.argv[1:] if arguments is None else arguments
    if words and words[0] not in ("fetch", "build", "verify") and not words[0].startswith("-"):
        words = ["build", *words]
    given = _parser().parse_args(words)
    verbs = {"fetch": fetch.run, "build": _build, "verify": _verify}
    try:
        return verbs[given.verb](given)
    except (ValueError, FileNotFoundError) as error:
        _aside(f"export: {error}")
        return 1


if __name__ == "__main__":
    sys.exit(main())
