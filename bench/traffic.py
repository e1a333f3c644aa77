"""Count the bytes that a decoder in float16 moves on a GPU, and its operations, per voxel.

Nothing is timed. The count assumes that TensorRT computes an operation of single elements together
with the convolution beside it, and that no activation stays in a cache between two kernels.
"""

from __future__ import annotations

from dataclasses import dataclass

from export.chains import Chain

HALF = 2  # bytes
SINGLE = 4


@dataclass(frozen=True)
class Traffic:
    """Bytes per voxel of the output: the convolutions, and what copies an activation.

    `convolutions` read their input and what they add, and write their output. A shortcut is a
    convolution of its own. `moments` read the output for its mean and its variance. `doubling`
    writes and reads the doubled input. `layout` are copies into another layout and back, `slabs`
    copies of an output into its slab.
    """

    convolutions: float
    moments: float
    doubling: float
    layout: float
    slabs: float

    def usual(self) -> float:
        """Return the sum for the layout [R, C, X, Y, Z] and outputs that are copied into slabs."""
        return self.innermost() + self.layout + self.slabs

    def innermost(self) -> float:
        """Return the sum for C innermost in memory and outputs that are written to slabs."""
        return self.convolutions + self.moments + self.doubling

    def least(self) -> float:
        """Return the sum if a convolution also doubled its input and summed its output."""
        return self.convolutions


def count(chain: Chain) -> Traffic:
    """Return the traffic of a chain in float16, per voxel of its output."""
    voxels = chain.activations[chain.output].planes ** 3

    def size(name: str) -> float:
        """Return the elements of an activation per voxel of the output."""
        activation = chain.activations[name]
        return activation.channels * activation.planes**3 / voxels

    subgraphs, ends = chain.subgraphs, (chain.input, chain.output)
    reads = [name for s in subgraphs for name in (s.input, s.skip) if name is not None]
    reads += [s.input for s in subgraphs if s.shortcut is not None]
    writes = [name for s in subgraphs for name in (s.output, s.shortcut_to) if name is not None]
    between = [name for name in (*reads, *writes) if name not in ends]
    doubled = sum(8 * size(s.input) for s in subgraphs if s.resize == "up")
    return Traffic(
        convolutions=HALF * sum(map(size, (*reads, *writes))),
        moments=2 * HALF * sum(size(s.output) for s in subgraphs if s.moments),
        # The interpolation is in float32, and the convolution takes float16.
        doubling=2 * (SINGLE + HALF) * doubled,
        layout=2 * HALF * sum(map(size, between)),
        slabs=2 * HALF * sum(size(name) for name in writes if name != chain.output),
    )


def operations(chain: Chain) -> float:
    """Return the additions and multiplications of all convolutions per voxel of the output."""
    voxels = chain.activations[chain.output].planes ** 3
    total = 0
    for subgraph in chain.subgraphs:
        source, target = (chain.activations[name] for name in (subgraph.input, subgraph.output))
        for conv, planes in (
            (subgraph.conv, target.planes),
            (subgraph.before, source.planes),
            (subgraph.after, target.planes),
            (subgraph.shortcut, source.planes),
        ):
            if conv is not None:
                total += 2 * conv.weight.numel() * planes**3
    return total / voxels


def rows(chain: Chain) -> list[list[str]]:
    """Return rows of a table: how the decoder runs, bytes per voxel, operations per byte."""
    traffic, flops = count(chain), operations(chain)
    sums = {
        "usual layout, outputs copied into slabs": traffic.usual(),
        "channels innermost, outputs written to slabs": traffic.innermost(),
        "least: doubling and moments within the convolutions": traffic.least(),
    }
    return [[name, f"{total:,.0f}", f"{flops / total:,.0f}"] for name, total in sums.items()]
