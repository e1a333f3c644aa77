"""The client: a mask or a grid in, a volume out."""

from __future__ import annotations

import json
import operator
import os
import random
import secrets
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from types import TracebackType
from typing import Any, TypeVar

import nibabel as nib
import numpy as np
from nibabel.spatialimages import SpatialImage
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException

from . import _transport as transport
from ._errors import InvalidRequest, ServerError, ServerUnavailable
from ._mask import Mask, Spacing, load_mask, parse_spacing, resample_nearest, restore
from ._variant import Variant, parse_variant
from ._volume import Progress, Volume

DEFAULT_URL = "localhost:8001"
_BACKOFF_SECONDS = 0.5
_NOT_EVERYWHERE = frozenset({"mask", "top_region", "bottom_region"})  # inputs of some variants
_LOOKUP_SECONDS = 30.0  # for what a server answers without any work
_T = TypeVar("_T")


class Client:
    """A MAISI Triton server, reached by gRPC.

    `url` is `host:port`; by default the environment variable `MAISI_URL`, else `localhost:8001`.
    `timeout` bounds a whole request in seconds, waiting and retries included; `idle_timeout` bounds
    the silence between two signs of progress once the server has begun. A server that cannot be
    reached or has no room is tried `retries` more times, ever more seldom; a request that has begun
    is never sent again. Threads may share a client.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        timeout: float = 3600.0,
        idle_timeout: float = 300.0,
        retries: int = 3,
    ) -> None:
        self.url = url or os.environ.get("MAISI_URL") or DEFAULT_URL
        if "/" in self.url:
            raise InvalidRequest(
                f"the url is '{self.url}'; allowed is host:port of the gRPC service"
            )
        self.timeout = timeout
        self.idle_timeout = idle_timeout
        self.retries = retries
        self._unary = transport.connect(self.url)

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._unary.close()

    def generate(
        self,
        mask: str | os.PathLike[str] | SpatialImage | None = None,
        *,
        variant: str = "mini",
        modality: str | None = None,
        size: Sequence[int] | None = None,
        spacing: float | Sequence[float] | None = None,
        seed: int | None = None,
        steps: int | None = None,
        guidance: float | None = None,
        guidance_interval: Sequence[float] | None = None,
        solver: str | None = None,
        top_region: str | None = None,
        bottom_region: str | None = None,
        on_progress: Callable[[Progress], object] | None = None,
    ) -> Volume:
        """Make a volume and wait for it; the arguments are those of `stream`.

        `on_progress` is called with every `Progress`. Leaving by an exception, such as the
        `KeyboardInterrupt` of Ctrl-C, cancels the request on the server.
        """
        events = self.stream(
            mask,
            variant=variant,
            modality=modality,
            size=size,
            spacing=spacing,
            seed=seed,
            steps=steps,
            guidance=guidance,
            guidance_interval=guidance_interval,
            solver=solver,
            top_region=top_region,
            bottom_region=bottom_region,
        )
        with closing(events):
            for event in events:
                if isinstance(event, Volume):
                    return event
                if on_progress is not None:
                    on_progress(event)
        raise AssertionError("a stream ends with a volume or raises")

    def stream(
        self,
        mask: str | os.PathLike[str] | SpatialImage | None = None,
        *,
        variant: str = "mini",
        modality: str | None = None,
        size: Sequence[int] | None = None,
        spacing: float | Sequence[float] | None = None,
        seed: int | None = None,
        steps: int | None = None,
        guidance: float | None = None,
        guidance_interval: Sequence[float] | None = None,
        solver: str | None = None,
        top_region: str | None = None,
        bottom_region: str | None = None,
    ) -> Generator[Progress | Volume, None, None]:
        """Yield `Progress` while the server works, then the `Volume`.

        `mask` is a 3-D label map, a path or an image, of any orientation and voxel size. Without
        one, an image alone is made: `size` voxels `[X, Y, Z]` at `spacing` mm, RAS+, its middle
        at the origin. With one, `spacing` (mm along right, anterior, superior) makes the server
        work on another grid: the labels are resampled by nearest neighbour, and the volume comes
        back to the mask's own grid by linear interpolation. Some variants take no mask.
        `top_region` and `bottom_region` are for variants that have body regions; there, regions
        left out are found in the mask. `guidance_interval` is the `[low, high]` part of the way,
        0 at the image and 1 at noise, where guidance is applied; elsewhere a step costs half.

        What is left out takes the variant's default. The same seed, mask and parameters give the
        same volume; without a seed one is drawn, and reported. `InvalidRequest` about the
        arguments is raised by the call itself, what the server refuses at the first item. Closing
        the iterator early cancels the request. Raises `MaisiError`; see there.
        """
        inputs: dict[str, NDArray[Any]] = {}
        source = None if mask is None else load_mask(mask)
        used = None if spacing is None else parse_spacing(spacing)
        if source is not None:
            used = used or source.spacing
            same = used == source.spacing
            inputs["mask"] = (
                source.labels if same else resample_nearest(source.labels, source.spacing, used)
            )
        if used is not None:
            inputs["spacing"] = np.array(used, np.float32)
        if size is not None:
            inputs["size"] = _integers("size", size, np.int32)
        if seed is None:
            seed = secrets.randbelow(2**32)  # drawn here, so that every try makes the same volume
        inputs["seed"] = _integers("seed", [seed], np.int64)
        if steps is not None:
            inputs["steps"] = _integers("steps", [steps], np.int32)
        if guidance is not None:
            try:
                inputs["guidance"] = np.array([float(guidance)], np.float32)
            except (TypeError, ValueError):
                raise InvalidRequest(f"guidance is {guidance!r}; a number is wanted") from None
        if guidance_interval is not None:
            inputs["guidance_interval"] = _pair("guidance_interval", guidance_interval)
        texts = {
            "modality": modality,
            "solver": solver,
            "top_region": top_region,
            "bottom_region": bottom_region,
        }
        for name, text in texts.items():
            if text is not None:
                inputs[name] = np.array([str(text).encode(errors="replace")], np.object_)
        return self._events(variant, inputs, source, used)

    def info(self) -> dict[str, Variant]:
        """Return every variant that is ready on the server, by name."""
        deadline = time.monotonic() + self.timeout
        return self._retry(self._info, deadline)

    def _info(self) -> dict[str, Variant]:
        variants = {}
        # Statistics name what is ready, and stay open where the repository index is restricted.
        ready = self._call(self._unary.get_inference_statistics).model_stats
        for name in sorted({model.name for model in ready}):
            config = self._call(self._unary.get_model_config, name).config
            if config.platform == "ensemble" and "variant" in config.parameters:
                variants[name] = parse_variant(config.parameters["variant"].string_value)
        return variants

    def _events(
        self,
        variant: str,
        inputs: Mapping[str, NDArray[Any]],
        mask: Mask | None,
        spacing: Spacing | None,
    ) -> Generator[Progress | Volume, None, None]:
        deadline = time.monotonic() + self.timeout

        def begin() -> tuple[Generator[Any, None, None], Any]:
            self._check_taken(variant, inputs)
            results = transport.stream(
                self.url,
                f"{variant}.stream",
                inputs,
                deadline=deadline,
                idle_timeout=self.idle_timeout,
            )
            try:
                return results, next(results, None)
            except transport.UnknownModel as error:
                raise self._missing(variant) from error

        volume = None
        results, result = self._retry(begin, deadline)
        with closing(results):
            while result is not None:
                if (stage := result.as_numpy("stage")) is not None:
                    yield Progress(_text(stage), float(result.as_numpy("progress").item()))
                if (image := result.as_numpy("image")) is not None:
                    report = json.loads(_text(result.as_numpy("report")))
                    volume = Volume(_place(image, report, mask, spacing), report)
                result = next(results, None)
        if volume is None:
            raise ServerError(f"the server at {self.url} ended without a volume")
        yield volume

    def _check_taken(self, variant: str, inputs: Mapping[str, NDArray[Any]]) -> None:
        """Refuse what this variant has no input for, before it travels."""
        if _NOT_EVERYWHERE.isdisjoint(inputs):
            return
        try:
            config = self._call(self._unary.get_model_config, f"{variant}.stream").config
        except InvalidRequest:  # no such model: the stream's own error says it best
            return
        taken = [tensor.name for tensor in config.input]
        for name in inputs:
            if name not in taken:
                raise InvalidRequest(
                    f"{name}: {variant} takes none; what it takes is {', '.join(taken)}"
                )

    def _missing(self, variant: str) -> InvalidRequest:
        served = ", ".join(self._info()) or "none"
        return InvalidRequest(f"the variant is '{variant}'; {self.url} serves {served}")

    def _call(self, method: Callable[..., Any], *args: str) -> Any:
        try:
            return method(*args, client_timeout=min(self.timeout, _LOOKUP_SECONDS))
        except InferenceServerException as error:
            raise transport.explain(error, self.url) from error

    def _retry(self, attempt: Callable[[], _T], deadline: float) -> _T:
        """Call until it works, an error is not ServerUnavailable, or tries or time run out."""
        for tried in range(self.retries + 1):
            try:
                return attempt()
            except ServerUnavailable:
                pause = _BACKOFF_SECONDS * 2**tried * random.uniform(0.5, 1.5)  # apart from others
                if tried == self.retries or time.monotonic() + pause > deadline:
                    raise
            time.sleep(pause)
        raise AssertionError("unreachable")


def _place(
    image: NDArray[np.int16], report: Mapping[str, Any], mask: Mask | None, spacing: Spacing | None
) -> nib.Nifti1Image:
    if mask is not None and spacing is not None:
        placed = restore(image, spacing, mask)
    else:
        lengths = np.array(report["spacing"], dtype=np.float64)
        affine = np.diag([*lengths, 1.0])
        affine[:3, 3] = -lengths * (np.array(image.shape) - 1) / 2
        placed = nib.Nifti1Image(image, affine)
        placed.header.set_xyzt_units("mm")
    label = f"SYNTHETIC {report.get('variant')} {report.get('modality')} seed {report.get('seed')}"
    placed.header["descrip"] = label.encode()[:79]
    return placed


def _integers(name: str, values: Any, dtype: type[np.signedinteger[Any]]) -> NDArray[Any]:
    limits = np.iinfo(dtype)
    try:
        whole = [operator.index(value) for value in values]
        if all(limits.min <= value <= limits.max for value in whole):
            return np.array(whole, dtype)
    except TypeError:
        pass
    raise InvalidRequest(f"{name} is {values!r}; whole numbers of {limits.bits} bits are wanted")


def _pair(name: str, values: Any) -> NDArray[Any]:
    try:
        low, high = values
        return np.array([float(low), float(high)], np.float32)
    except (TypeError, ValueError):
        raise InvalidRequest(f"{name} is {values!r}; two numbers are wanted") from None


def _text(value: NDArray[Any]) -> str:
    item = value.reshape(-1)[0]
    return item.decode() if isinstance(item, bytes) else str(item)
