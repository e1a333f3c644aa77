"""`python -m export VARIANT`: checkpoint -> ONNX -> model repository, with proof of equality."""

import argparse
import logging
import sys
import warnings
from pathlib import Path

from export import graphs, networks, onnx_export, repository, variant
from export.variant import Variant

ROOT = Path(__file__).parent


def export(chosen: Variant, checkpoints: Path, target: Path) -> None:
    """Export a variant from `checkpoints` into the model repository `target`.

    Raises ValueError or FileNotFoundError with a sentence; `target` is untouched then.
    """
    # What PyTorch's exporter says along the way is about itself.
    warnings.simplefilter("ignore")
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    name = chosen.name
    truth = networks.load(chosen, checkpoints)
    prepared = networks.load(chosen, checkpoints)
    for network in (prepared.autoencoder, prepared.diffusion_unet, prepared.controlnet):
        networks.prepare(network)
    models: dict[str, bytes] = {}
    pairs = zip(graphs.graphs(chosen, prepared), graphs.graphs(chosen, truth), strict=True)
    for graph, original in pairs:
        model = onnx_export.to_onnx(graph).SerializeToString()
        # Against the networks as MONAI made them: proves the prepared ones as well.
        error = onnx_export.verify(original, model)
        print(f"{name}.{graph.name}: {len(model) / 1e6:.1f} MB, relative error {error:.1e}")
        models[graph.name] = model
    repository.write(target, chosen, prepared.digests, models)
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
