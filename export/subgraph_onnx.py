"""A chain's subgraphs as ONNX, written node by node from the weights.

Inputs of a subgraph: `x` [R, C, p, Y, Z], a slab with one plane of each neighbour; `inside`
[q, 1, 1], 1 for each plane that the convolution sees and 0 for those beyond the volume; `mean` and
`variance` [C] of `x` over the whole volume, where there is a norm; `skip`, where the subgraph adds
one, with planes of its neighbours where another subgraph needs them. Outputs: `y`
[R, C, p - 2, Y, Z], or twice or half as many planes; `shortcut`, where the subgraph computes one;
`y_mean` and `y_variance` [C] of this slab, where the next norm needs them.

In a build of float16, convolutions compute and activations are stored in float16; everything else
is float32.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
from onnx_ir import tape
from torch import nn

from backends.engines import Target
from backends.slabs import chain as slabs
from backends.slabs.arena import Arena
from export.arrays import Array
from export.chains import Activation, Chain, Convolution, Subgraph
from export.graphs import SymbolicShape
from export.half import store_in_half

OPSET = 20
FLOAT, HALF = ir.DataType.FLOAT, ir.DataType.FLOAT16


def shapes(
    chain: Chain, subgraph: Subgraph
) -> tuple[dict[str, SymbolicShape], dict[str, SymbolicShape]]:
    """Return the shapes of a subgraph's inputs and outputs.

    Axes: `rows`; `t`, the slab's latent planes; `y` and `z`, the latent's other sides.
    """
    source = chain.activations[subgraph.input]
    target = chain.activations[subgraph.output]
    if subgraph.ids:
        target = replace(target, channels=1)
    planes = 2 * source.planes if subgraph.resize == "up" else source.planes
    inputs: dict[str, SymbolicShape] = {
        "x": _slab(source, haloed=True),
        "inside": (f"{planes}*t+2", 1, 1),
    }
    if subgraph.norm is not None:
        inputs |= {"mean": (source.channels,), "variance": (source.channels,)}
    if subgraph.skip is not None:
        inputs["skip"] = _slab(chain.activations[subgraph.skip], subgraph.skip in haloed(chain))
    outputs: dict[str, SymbolicShape] = {"y": _slab(target, haloed=False)}
    if subgraph.shortcut_to is not None:
        outputs["shortcut"] = _slab(chain.activations[subgraph.shortcut_to], haloed=False)
    if subgraph.moments:
        outputs |= {"y_mean": (target.channels,), "y_variance": (target.channels,)}
    return inputs, outputs


def write(chain: Chain, folder: Path, precision: str, kinds: dict[str, ir.DataType]) -> Path:
    """Write a chain as `00.onnx`, `01.onnx`, ... and `chain.json`; return the path of the last.

    See `to_onnx` for the arguments and errors.
    """
    for number, subgraph in enumerate(chain.subgraphs):
        model = to_onnx(chain, subgraph, precision, kinds)
        if precision == "fp32":
            store_in_half(model)
        ir.save(model, folder / f"{number:02}.onnx")
    path = folder / "chain.json"
    path.write_text(json.dumps(describe(chain, precision), indent=1) + "\n")
    return path


class ChainSession:
    """An exported chain, run in slabs of one thickness."""

    def __init__(self, path: Path, engine: Callable[[Path], slabs.SubgraphEngine]) -> None:
        """Load `chain.json` at `path`; `engine` loads a subgraph by its path without suffix."""
        self.chain = slabs.load(path, engine)

    def __call__(self, x: Array, thickness: int = 3) -> Array:
        """Return the output for `x` [R, C, X, Y, Z], in slabs of `thickness` latent planes."""
        output: Array = slabs.run(self.chain, x, thickness, Arena(0))
        return output


class SubgraphSession:
    """A session of ONNX Runtime with the interface that a chain calls, for one subgraph."""

    def __init__(self, session: onnxruntime.InferenceSession) -> None:
        self.session = session
        self.names = [output.name for output in session.get_outputs()]

    def __call__(
        self, feeds: Mapping[str, Array], target: Target | None = None
    ) -> dict[str, Array]:
        """Return the outputs by name, none of them in `target`."""
        return dict(zip(self.names, self.session.run(None, dict(feeds)), strict=True))

    def release(self) -> None:
        """Do nothing: the session serves the next comparison."""


def describe(chain: Chain, precision: str) -> dict[str, Any]:
    """Return the content of `chain.json`, which `backends/slabs` reads; files by their stem."""
    return {
        "itemsize": 2 if precision == "fp16" else 4,
        "input": chain.input,
        "output": chain.output,
        "activations": {name: asdict(x) for name, x in chain.activations.items()},
        "subgraphs": [
            {
                "file": f"{number:02}",
                "input": subgraph.input,
                "output": subgraph.output,
                "skip": subgraph.skip,
                "shortcut": subgraph.shortcut_to,
                "groups": subgraph.norm.num_groups if subgraph.norm is not None else 0,
                "up": subgraph.resize == "up",
            }
            for number, subgraph in enumerate(chain.subgraphs)
        ],
    }


def haloed(chain: Chain) -> set[str]:
    """Return the activations whose slabs are stored with planes of their neighbours."""
    return {subgraph.input for subgraph in chain.subgraphs}


def _slab(activation: Activation, haloed: bool) -> SymbolicShape:
    channels, n = activation.channels, activation.planes
    planes = f"{n}*t+2" if haloed else f"{n}*t"
    return ("rows", channels, planes, f"{n}*y", f"{n}*z")


def to_onnx(
    chain: Chain, subgraph: Subgraph, precision: str, kinds: dict[str, ir.DataType]
) -> ir.Model:
    """Return one subgraph in `precision`, fp32 or fp16.

    `kinds`: types of the chain's input and output.

    Raises ValueError for a weight that float16 cannot hold.
    """
    inner = HALF if precision == "fp16" else FLOAT
    ends = {"x": kinds.get(subgraph.input, inner), "y": kinds.get(subgraph.output, inner)}
    ends |= {"skip": inner, "shortcut": inner}
    inputs, outputs = shapes(chain, subgraph)
    values = {
        name: ir.val(name, dtype=ends.get(name, FLOAT), shape=shape)
        for name, shape in inputs.items()
    }
    writer = _Writer(inner)
    results = writer.write(subgraph, values, subgraph.skip in haloed(chain))
    for name, shape in outputs.items():
        kind = ends.get(name, FLOAT)
        if kind != FLOAT:
            results[name] = writer.op("Cast", [results[name]], {"to": kind})
        result = results[name]
        result.name, result.dtype, result.shape = name, kind, ir.Shape(shape)
    graph = ir.Graph(
        list(values.values()),
        [results[name] for name in outputs],
        nodes=writer.nodes,
        initializers=writer.initializers,
        opset_imports={"": OPSET},
        name=subgraph.output,
    )
    return ir.Model(graph, ir_version=10)


class _Writer(tape.Tape):
    """The nodes of one subgraph; `inner` is the type that convolutions compute in."""

    def __init__(self, inner: ir.DataType) -> None:
        super().__init__()
        self.inner = inner

    def write(
        self, subgraph: Subgraph, inputs: dict[str, ir.Value], skip_haloed: bool
    ) -> dict[str, ir.Value]:
        """Write all nodes; return the outputs, not yet cast to their types."""
        outputs: dict[str, ir.Value] = {}
        x = inputs["x"]
        x = self.bits(x, subgraph.conv.in_channels) if subgraph.bits else self.floats(x)
        x = self.times(x, subgraph.scale)
        if subgraph.shortcut is not None:
            outputs["shortcut"] = self.convolve(subgraph.shortcut, self.planes(x, 1, -1))
        if subgraph.norm is not None:
            x = self.normalise(x, subgraph.norm, inputs["mean"], inputs["variance"])
        if subgraph.silu:
            x = self.silu(x)
        if subgraph.before is not None:
            x = self.convolve(subgraph.before, x)
        if subgraph.resize == "up":
            x = self.planes(self.twice(x), 1, -1)
        x = self.op("Mul", [x, inputs["inside"]])
        if subgraph.resize == "down":
            x = self.convolve(subgraph.conv, self.planes(x, 1, 2**62), (0, 0, 0, 0, 1, 1))
        elif subgraph.resize == "transpose":
            x = self.convolve(subgraph.conv, self.planes(x, 1, 2**62), (1, 1, 1, 2, 0, 0))
        else:
            x = self.convolve(subgraph.conv, x, (0, 1, 1, 0, 1, 1))
        if subgraph.skip is not None:
            skip = self.floats(inputs["skip"])
            x = self.op("Add", [x, self.planes(skip, 1, -1) if skip_haloed else skip])
        if subgraph.moments:
            outputs["y_mean"], outputs["y_variance"] = self.moments(x)
        if subgraph.silu_after:
            x = self.silu(x)
        if subgraph.after is not None:
            x = self.convolve(subgraph.after, x)
        if subgraph.ids:
            x = self.largest(x, subgraph.ids)
        return {**outputs, "y": self.times(x, subgraph.scale_after)}

    def const(self, array: Any) -> ir.Value:
        """Return a constant."""
        name = f"c{len(self.initializers)}"
        return self.initializer(ir.tensor(np.ascontiguousarray(array), name=name), name=name)

    def weight(self, parameter: Any) -> ir.Value:
        """Return a parameter in the type that convolutions compute in."""
        array = parameter.detach().numpy()
        if self.inner == HALF:
            with np.errstate(over="ignore"):
                array = array.astype(np.float16)
            if not np.isfinite(array).all():
                raise ValueError("a convolution holds a number above 65504, float16's largest")
        return self.const(array)

    def floats(self, x: ir.Value) -> ir.Value:
        """Return `x` in float32."""
        return x if self.inner == FLOAT else self.op("Cast", [x], {"to": FLOAT})

    def times(self, x: ir.Value, factor: float) -> ir.Value:
        """Multiply float32 by a number."""
        return x if factor == 1 else self.op("Mul", [x, self.const(np.float32(factor))])

    def silu(self, x: ir.Value) -> ir.Value:
        """Apply SiLU."""
        return self.op("Mul", [x, self.op("Sigmoid", [x])])

    def planes(self, x: ir.Value, first: int, end: int) -> ir.Value:
        """Return the planes from `first` to before `end`."""
        return self.op("Slice", [x, *(self.const(np.array([n])) for n in (first, end, 2))])

    def normalise(
        self, x: ir.Value, norm: nn.GroupNorm, mean: ir.Value, variance: ir.Value
    ) -> ir.Value:
        """Apply a norm as a scale and a shift per channel, from the groups' mean and variance."""
        eps = self.op("Add", [variance, self.const(np.float32(norm.eps))])
        weight = self.const(norm.weight.detach().numpy())
        scale = self.op("Div", [weight, self.op("Sqrt", [eps])])
        bias = self.const(norm.bias.detach().numpy())
        shift = self.op("Sub", [bias, self.op("Mul", [mean, scale])])
        axes = self.const(np.array([1, 2, 3]))
        scale, shift = (self.op("Unsqueeze", [value, axes]) for value in (scale, shift))
        return self.op("Add", [self.op("Mul", [x, scale]), shift])

    def moments(self, x: ir.Value) -> tuple[ir.Value, ir.Value]:
        """Return mean and variance [C] of [1, C, p, Y, Z]."""
        mean = self.mean(x)
        centred = self.op("Sub", [x, mean])
        variance = self.mean(self.op("Mul", [centred, centred]))
        axes = self.const(np.array([0, 2, 3, 4]))
        return self.op("Squeeze", [mean, axes]), self.op("Squeeze", [variance, axes])

    def mean(self, x: ir.Value) -> ir.Value:
        """Average over space, one axis at a time, which keeps float32 accurate."""
        for axis in (4, 3, 2):
            x = self.op("ReduceMean", [x, self.const(np.array([axis]))])
        return x

    def twice(self, x: ir.Value) -> ir.Value:
        """Double all sides by trilinear interpolation."""
        scales = self.const(np.array([1, 1, 2, 2, 2], np.float32))
        attributes = {"mode": "linear", "coordinate_transformation_mode": "half_pixel"}
        return self.op("Resize", [x, None, scales], attributes)

    def convolve(self, conv: Convolution, x: ir.Value, pads: Sequence[int] = (0,) * 6) -> ir.Value:
        """Convolve; `pads` in ONNX's order: before the three axes, then after them."""
        if self.inner == HALF:
            x = self.op("Cast", [x], {"to": HALF})
        tensors = [x, self.weight(conv.weight), self.weight(conv.bias)]
        attributes = {"pads": list(pads), "strides": list(conv.stride)}
        kind = "ConvTranspose" if isinstance(conv, nn.ConvTranspose3d) else "Conv"
        return self.floats(self.op(kind, tensors, attributes))

    def bits(self, labels: ir.Value, count: int) -> ir.Value:
        """Turn label ids [R, 1, p, Y, Z] into their `count` lowest bits, in float32."""
        values = self.const((2.0 ** np.arange(count, dtype=np.float32)).reshape(-1, 1, 1, 1))
        ids = self.op("Cast", [labels], {"to": FLOAT})
        shifted = self.op("Floor", [self.op("Div", [ids, values])])
        half = self.op("Floor", [self.op("Mul", [shifted, self.const(np.float32(0.5))])])
        return self.op("Sub", [shifted, self.op("Mul", [half, self.const(np.float32(2))])])

    def largest(self, x: ir.Value, ids: Sequence[int]) -> ir.Value:
        """Return the id of the largest channel, [R, 1, p, Y, Z] in float32."""
        classes = self.op("ArgMax", [x], {"axis": 1})
        return self.op("Gather", [self.const(np.array(ids, np.float32)), classes])
