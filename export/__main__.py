"""`python -m export VARIANT`: checkpoint -> ONNX -> model repository, with proof of equality."""

import argparse
import sys
import tempfile
from pathlib import Path

from export import graphs, networks, onnx_export, repository, variant
from export.variant import Variant

ROOT = Path(__file__).parent
TOLERANCE = 1e-5


def export(chosen: Variant, checkpoints: Path, target: Path) -> None:
    """Export a variant from `checkpoints` into the model repository `target`.

    Raises ValueError or FileNotFoundError with a sentence; `target` is untouched then.
    """
    name = chosen.name
    loaded = networks.load(chosen, checkpoints)
    files: dict[str, list[Path]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for graph in graphs.graphs(chosen, loaded):
            path = onnx_export.write(graph, Path(folder) / graph.name, "fp32")
            error = onnx_export.verify(graph, path, TOLERANCE)
            files[graph.name] = sorted(path.parent.iterdir())
            size = sum(file.stat().st_size for file in files[graph.name]) / 1e6
            print(f"{name}.{graph.name}: {size:.1f} MB, relative error {error:.1e}")
        repository.write(target, chosen, loaded.digests, files, "onnx", "fp32")
    print(f"{name}: written to {target}")


def main() -> int:
    """Run the command line; return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m export", description=__doc__)
    parser.add_argument("variant", help=f"one of {', '.join(variant.names())}")
    parser.add_argument(
        "--checkpoints", type=Path, default=ROOT / "checkpoints", help="default: %(default)s"
    )
    parser.add_argument(
        "--repository",
        type=Path,
        default=ROOT.parent / "model_repository",
        help="default: %(default)s",
    )
    given = parser.parse_args()
    try:
        export(variant.load(given.variant), given.checkpoints, given.repository)
    except (ValueError, FileNotFoundError) as error:
        print(f"export: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
