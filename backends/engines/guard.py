"""Check requests of a network: the caller's token, and whether the inputs fit together.

Clients call a variant's ensemble and its stream. The stages of these call the networks inside the
server, with a token that the supervisor passes to the process of every model. Triton checks names,
types, ranks and fixed sides from the configuration. This module checks everything else.
"""

from __future__ import annotations

import errno
import hashlib
import hmac
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .memory import OutOfMemory

ENV = "MAISI_TOKEN"
# Parameters of an inference request. One with PREPARE has no inputs: {"rows", "volume" [X, Y, Z]}
# of later inputs, in JSON.
PARAMETER = "maisi_token"
PREPARE = "maisi_prepare"
ANY_SHAPE = "the engine takes any shape, so that nothing is to be prepared"
NOT_FINITE = "holds NaN or infinite values"
_SHORTEST = 32  # least characters of a token
_ROWS = 2  # the conditional row and, with guidance, the unconditional row


class Refused(ValueError):
    """The request is refused; the message is one sentence for the caller."""


def token() -> str:
    """Return the token of this server; raises ValueError if it is missing or too short.

    The token signs plans, which clients receive. Clients could find a short token by trial.
    """
    if secret := os.environ.get(ENV):
        if len(secret) >= _SHORTEST:
            return secret
        raise ValueError(
            f"{ENV}: {len(secret)} characters, but {_SHORTEST} or more drawn at random are expected"
        )
    raise ValueError(
        f"the environment has no {ENV}, a secret that the models of a server share; "
        "`python -m server` sets one"
    )


def _bytes(text: str) -> bytes:
    """Return the bytes of a text, which may have lone surrogates from JSON or the environment."""
    return text.encode(errors="surrogatepass")


def sign(text: str) -> str:
    """Return the HMAC-SHA256 of a text under the server's token, 64 hexadecimal digits."""
    return hmac.new(_bytes(token()), text.encode(), hashlib.sha256).hexdigest()


def probe_id() -> str:
    """Return the id of the supervisor's own requests; it cannot be guessed without the token."""
    return f"probe-{sign('probe')}"  # the same as in server/control.py


@dataclass(frozen=True)
class Contract:
    """The allowed inputs of a network; `export/model_configs.py` writes them into `network`.

    `inputs` maps an input to its shape, in which -1 is any size. `factors` maps an input, whose
    last three axes are space, to the number of the volume's voxels along one side of its elements.
    `rows` are the inputs whose first axis is rows of conditioning. `multiple`, `max` [X, Y, Z] and
    `max_voxels` limit the volume. `size` [X, Y, Z] is the only allowed size, or None. `ranges`
    maps an input to its lowest and highest value.
    """

    model: str
    inputs: Mapping[str, tuple[int, ...]]
    factors: Mapping[str, int]
    rows: frozenset[str]
    multiple: int
    max: tuple[int, ...]
    max_voxels: int
    size: tuple[int, ...] | None
    ranges: Mapping[str, tuple[float, float]]
    token: str = field(repr=False)

    def check_caller(self, request: Any) -> None:
        """Raise Refused for a request without the token."""
        value = parameters(request).get(PARAMETER)
        if not isinstance(value, str) or not hmac.compare_digest(_bytes(value), _bytes(self.token)):
            variant = self.model.partition(".")[0]
            raise Refused(
                f"{self.model}: only the stages of {variant} call it; "
                f"send the request to {variant} or {variant}.stream"
            )

    def later_shapes(self, rows: int, volume: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the inputs for `rows` of conditioning of a volume [X, Y, Z].

        Raises Refused for a volume or rows that are not allowed.
        """
        self._check_rows(dict.fromkeys(self.rows, rows))
        self._check_volumes({"volume": volume})
        shapes = {}
        for name, dims in self.inputs.items():
            first = (rows,) if name in self.rows else dims[:1]
            factor = self.factors.get(name)
            sides = dims[1:] if factor is None else (*dims[1:-3], *(n // factor for n in volume))
            shapes[name] = (*first, *sides)
        return shapes

    def check_inputs(self, inputs: Mapping[str, Any]) -> None:
        """Raise Refused for inputs, arrays of numpy or CuPy, that do not fit together."""
        for name in self.inputs:
            if name not in inputs:
                raise Refused(f"{name}: is missing")
        for name, array in inputs.items():
            if 0 in array.shape:
                raise Refused(f"{name}: shape {list(array.shape)}, but no side may be 0")
        self._check_rows({name: inputs[name].shape[0] for name in inputs if name in self.rows})
        volumes = {
            name: tuple(side * self.factors[name] for side in inputs[name].shape[-3:])
            for name in inputs
            if name in self.factors
        }
        self._check_volumes(volumes)
        for name, array in inputs.items():
            self._check_values(name, array)

    def _check_rows(self, rows: Mapping[str, int]) -> None:
        first = next(iter(rows.values()), 1)
        for name, count in rows.items():
            if count != first or count > _ROWS:
                raise Refused(
                    f"{name}: the number of rows is {count}, but {', '.join(rows)} need the same "
                    "number, 1 or 2"
                )

    def _check_volumes(self, volumes: Mapping[str, tuple[int, ...]]) -> None:
        first = next(iter(volumes.values()), ())
        for name, volume in volumes.items():
            if volume != first:
                raise Refused(
                    f"{name}: is for a volume of {list(volume)} voxels, but {', '.join(volumes)} "
                    "must be for the same volume"
                )
            if self.size is not None and volume != self.size:
                raise Refused(f"{name}: {list(volume)} voxels, but {list(self.size)} are needed")
            if any(side % self.multiple for side in volume):
                raise Refused(
                    f"{name}: {list(volume)} voxels, but sides must be multiples of {self.multiple}"
                )
            if any(side > limit for side, limit in zip(volume, self.max, strict=True)):
                raise Refused(
                    f"{name}: {list(volume)} voxels, but at most {list(self.max)} are allowed"
                )
            # The stages pad volumes to `multiple`. This is the smallest volume with these sides.
            if math.prod(side - self.multiple + 1 for side in volume) > self.max_voxels:
                raise Refused(
                    f"{name}: {list(volume)} voxels, but at most {self.max_voxels} are allowed"
                )

    def _check_values(self, name: str, array: Any) -> None:
        if not isinstance(array, np.ndarray):  # the output of another network on a GPU
            return
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise Refused(f"{name}: {NOT_FINITE}, and only finite ones are allowed")
        if name in self.ranges:
            low, high = self.ranges[name]
            outside = array[(array < low) | (array > high)]
            if outside.size:
                raise Refused(
                    f"{name}: {outside.flat[0]} is outside the allowed range, {low:g} to {high:g}"
                )


def contract(config: Mapping[str, Any]) -> Contract | None:
    """Return the contract in a model's configuration; None if the model has no variant.

    Raises ValueError for a damaged contract, and if the server has no token.
    """
    parameter = config["parameters"].get("network")
    if parameter is None:
        return None
    try:
        fields = json.loads(parameter["string_value"])
        inputs = {tensor["name"]: tuple(map(int, tensor["dims"])) for tensor in config["input"]}
        size = fields.get("size")
        return Contract(
            config["name"],
            inputs,
            fields["factors"],
            frozenset(name for name, dims in inputs.items() if dims[0] == -1),
            fields["multiple"],
            tuple(fields["max"]),
            fields["max_voxels"],
            None if size is None else tuple(size),
            {name: (low, high) for name, (low, high) in fields["ranges"].items()},
            token(),
        )
    except (KeyError, TypeError) as error:
        raise ValueError("the parameter `network` is damaged; export the model again") from error


def check_caller(contract: Contract | None, request: Any) -> None:
    """Raise Refused for a request without the token; without a contract, accept any."""
    if contract is not None:
        contract.check_caller(request)


def later_shapes(contract: Contract | None, request: Any) -> dict[str, tuple[int, ...]] | None:
    """Return the shapes of later inputs that a request prepares; None for any other request.

    Raises Refused for a volume or rows that are not allowed.
    """
    if contract is None or (text := parameters(request).get(PREPARE)) is None:
        return None
    later = json.loads(text)
    return contract.later_shapes(later["rows"], tuple(later["volume"]))


def parameters(request: Any) -> dict[str, Any]:
    """Return the parameters of an inference request."""
    result: dict[str, Any] = json.loads(request.parameters() or "{}")
    return result


def check_inputs(contract: Contract | None, inputs: Mapping[str, Any]) -> None:
    """Raise Refused for inputs that do not fit together; without a contract, accept any."""
    if contract is not None:
        contract.check_inputs(inputs)


def status(codes: Any, error: Exception) -> int:
    """Return Triton's code for an error, an attribute of `codes` (`TritonError`)."""
    disk_full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    if isinstance(error, Refused):
        code: int = codes.INVALID_ARG
    elif isinstance(error, OutOfMemory) or disk_full:
        code = codes.UNAVAILABLE
    else:
        code = codes.INTERNAL
    return code
