"""Make invalid requests from valid KServe v2 messages by mutations."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Mapping, Sequence

from tritonclient.grpc import service_pb2 as pb

_SIZES = {"BOOL": 1, "UINT8": 1, "INT32": 4, "INT64": 8, "FP32": 4}
_TYPES = (*_SIZES, "BYTES", "FP16", "UINT64", "INVALID", "", "fp32", "INT32\0")
_DIMS = (-(2**63), -1, 0, 1, 2, 3, 31, 33, 64, 2**16, 2**31, 2**40, 2**62, 2**63 - 1)
_NUMBERS = (-(2**63), -(2**31), -1, 0, 1, 3, 255, 1001, 2**31 - 1, 2**63 - 1)
_WORDS = (b"", b"\0", b"mri_t1", b"\xff\xfe", b"../../etc/passwd", b"{}" * 50, b"%s%n", b"x" * 5000)
_ANSWER = ("image", "used_mask", "report")
_OUTPUTS = {  # outputs of the models that accept `good`
    "": _ANSWER,
    "stream": ("stage", "progress", *_ANSWER),
    "condition": ("noise", "labels", "class_labels", "spacing_mm100", "plan"),
}
_FLOATS = (float("nan"), float("inf"), -float("inf"), -0.0, 1e-45, 3e38, -1.0, 0.5, 2.0)


def good(model: str, side: int = 32) -> pb.ModelInferRequest:
    """Return a request to an endpoint for a volume of `side` voxels per side in one step."""
    request = pb.ModelInferRequest(model_name=model)
    _add(request, "size", "INT32", [3], struct.pack("<3i", side, side, side))
    _add(request, "spacing", "FP32", [3], struct.pack("<3f", 2, 2, 2))
    _add(request, "seed", "INT64", [1], struct.pack("<q", 7))
    _add(request, "steps", "INT32", [1], struct.pack("<i", 1))
    return request


def wrong(
    chance: random.Random,
    models: Sequence[str],
    inner: Mapping[str, Sequence[pb.ModelInferRequest]],
) -> pb.ModelInferRequest:
    """Return an invalid request to one of `models`.

    It is a valid request to an endpoint with one to three mutations, or a request to a network. The
    lists of `inner` have the requests of stages to each network: first a valid request, which is
    mutated, and then invalid requests.
    """
    request = good(chance.choice(models))
    if chance.random() < 0.7 and request.model_name in inner:
        valid, *others = inner[request.model_name]
        if others and chance.random() < 0.7:
            return chance.choice(others)
        request.CopyFrom(valid)
        if chance.random() < 0.2:  # without the token
            request.parameters.clear()
    for _ in range(chance.randint(1, 3)):
        chance.choice(_MUTATIONS)(chance, request)
    return request


def _add(
    request: pb.ModelInferRequest, name: str, type_: str, shape: Sequence[int], raw: bytes
) -> None:
    request.inputs.add(name=name, datatype=type_, shape=shape)
    request.raw_input_contents.append(raw)


def _some(chance: random.Random, request: pb.ModelInferRequest) -> int | None:
    return chance.randrange(len(request.inputs)) if request.inputs else None


def _shape(chance: random.Random, request: pb.ModelInferRequest) -> None:
    if (at := _some(chance, request)) is not None:
        dims = [chance.choice(_DIMS) for _ in range(chance.randint(0, 6))]
        request.inputs[at].shape[:] = dims


def _datatype(chance: random.Random, request: pb.ModelInferRequest) -> None:
    if (at := _some(chance, request)) is not None:
        request.inputs[at].datatype = chance.choice(_TYPES)


def _bytes(chance: random.Random, request: pb.ModelInferRequest) -> None:
    """Change, empty, replace or remove one of the raw contents."""
    if not request.raw_input_contents:
        return
    at = chance.randrange(len(request.raw_input_contents))
    raw = request.raw_input_contents[at]
    contents = (raw[:-1], raw + b"\1", b"", chance.randbytes(chance.randint(0, 64)), None)
    if (content := chance.choice(contents)) is None:
        del request.raw_input_contents[at]
    else:
        request.raw_input_contents[at] = content


def _typed(chance: random.Random, request: pb.ModelInferRequest) -> None:
    """Add typed contents to a tensor; in half of the cases, remove all raw contents."""
    if (at := _some(chance, request)) is not None:
        request.inputs[at].contents.int_contents.extend([1] * chance.randint(1, 5))
        if chance.random() < 0.5:
            del request.raw_input_contents[:]


def _value(chance: random.Random, request: pb.ModelInferRequest) -> None:
    """Set a well-formed tensor to a value at or beyond its limits."""
    kind = chance.randrange(3)
    if kind == 0:
        name = chance.choice(("size", "seed", "steps", "redraws"))
        wide, count = name == "seed", 3 if name == "size" else 1
        limit = 2 ** (63 if wide else 31)
        values = [n for n in _NUMBERS if -limit <= n < limit and not 3 < n < 1001]
        raw = struct.pack(f"<{count}{'q' if wide else 'i'}", *chance.choices(values, k=count))
        _put(request, name, "INT64" if wide else "INT32", [count], raw)
    elif kind == 1:
        name = chance.choice(("spacing", "guidance", "guidance_interval", "strength"))
        count = {"spacing": 3, "guidance_interval": 2}.get(name, 1)
        _put(
            request,
            name,
            "FP32",
            [count],
            struct.pack(f"<{count}f", *chance.choices(_FLOATS, k=count)),
        )
    else:
        name = chance.choice(("modality", "preset", "solver", "organs", "vocabulary", "anatomy"))
        word = chance.choice(_WORDS)
        length = chance.choice((len(word), len(word) + 1, 2**32 - 1, 0))
        _put(request, name, "BYTES", [1], struct.pack("<I", length) + word)


def _put(
    request: pb.ModelInferRequest, name: str, type_: str, shape: Sequence[int], raw: bytes
) -> None:
    for at, tensor in enumerate(request.inputs):
        if tensor.name == name and at < len(request.raw_input_contents):
            request.raw_input_contents[at] = raw
            return
    _add(request, name, type_, shape, raw)


def _mask(chance: random.Random, request: pb.ModelInferRequest) -> None:
    """Set an empty mask, or a mask of random labels, most of which the variant does not have."""
    side = chance.choice((0, 1, 31, 32, 33))
    _put(request, "mask", "UINT8", [side] * 3, chance.randbytes(side**3))


def _name(chance: random.Random, request: pb.ModelInferRequest) -> None:
    name = chance.choice(("", "nobody", "\0", "../config", "mask", "size", "n" * 10_000, "latent"))
    if (at := _some(chance, request)) is not None:
        request.inputs[at].name = name


def _twice(chance: random.Random, request: pb.ModelInferRequest) -> None:
    if (at := _some(chance, request)) is not None:
        request.inputs.append(request.inputs[at])
        if chance.random() < 0.5 and request.raw_input_contents:
            request.raw_input_contents.append(request.raw_input_contents[0])


def _less(chance: random.Random, request: pb.ModelInferRequest) -> None:
    if (at := _some(chance, request)) is not None:
        del request.inputs[at]


def _model(chance: random.Random, request: pb.ModelInferRequest) -> None:
    request.model_name = chance.choice(("", "nobody", "../mini", "mini\0", "m" * 10_000, "mini"))
    request.model_version = chance.choice(("", "0", "-1", "2", "x", "9" * 100))


def _parameter(chance: random.Random, request: pb.ModelInferRequest) -> None:
    name = chance.choice(
        ("sequence_id", "priority", "timeout", "sequence_start", "binary_data_size", "", "x" * 999)
    )
    value = chance.choice(
        (
            pb.InferParameter(int64_param=chance.choice(_NUMBERS)),
            pb.InferParameter(string_param="\0%s"),
            pb.InferParameter(bool_param=True),
            pb.InferParameter(),
        )
    )
    request.parameters[name].CopyFrom(value)


def _memory(chance: random.Random, request: pb.ModelInferRequest) -> None:
    """Refer to shared memory that is not registered."""
    if (at := _some(chance, request)) is not None:
        parameters = request.inputs[at].parameters
        parameters["shared_memory_region"].string_param = chance.choice(("", "/etc/passwd", "x"))
        parameters["shared_memory_byte_size"].int64_param = chance.choice(_NUMBERS)
        parameters["shared_memory_offset"].int64_param = chance.choice(_NUMBERS)


def _output(chance: random.Random, request: pb.ModelInferRequest) -> None:
    """Request unknown or repeated outputs, or classes, which Triton returns as text."""
    outputs = _OUTPUTS.get(request.model_name.partition(".")[2], _OUTPUTS[""])
    for _ in range(chance.randint(1, 3)):
        unknown = chance.random() < 0.2
        name = chance.choice(("nobody", "", "\0", "latent") if unknown else outputs)
        parameters = request.outputs.add(name=name).parameters
        if chance.random() < 0.5:
            parameters["classification"].int64_param = chance.choice((*_NUMBERS, 2**32, 2**32 + 1))


_MUTATIONS: Sequence[Callable[[random.Random, pb.ModelInferRequest], None]] = (
    _shape,
    _datatype,
    _bytes,
    _typed,
    _value,
    _value,
    _mask,
    _name,
    _twice,
    _less,
    _model,
    _parameter,
    _memory,
    _output,
)
