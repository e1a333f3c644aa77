"""A connection to a server: what is asked once, what streams, and when to try again."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import closing
from typing import Any, TypeVar

from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException

from . import _transport as transport
from ._errors import InvalidRequest, ServerUnavailable
from ._variant import Variant, parse_variant

_BACKOFF_SECONDS = 0.5
_NOT_EVERYWHERE = frozenset(  # inputs of some variants
    {
        "mask",
        "vocabulary",
        "anatomy",
        "organs",
        "augment",
        "redraws",
        "mask_only",
        "top_region",
        "bottom_region",
    }
)
_LOOKUP_SECONDS = 30.0  # for what a server answers without any work
_T = TypeVar("_T")


class Connection:
    """A server at `url`, with the limits that `Client` explains."""

    def __init__(self, url: str, timeout: float, idle_timeout: float, retries: int) -> None:
        self.url, self.timeout = url, timeout
        self.idle_timeout, self.retries = idle_timeout, retries
        self._unary = transport.connect(url)

    def close(self) -> None:
        """Close it."""
        self._unary.close()

    def variants(self) -> dict[str, Variant]:
        """Return every variant that is ready, by name."""
        return self._retry(self._info, time.monotonic() + self.timeout)

    def _info(self) -> dict[str, Variant]:
        variants = {}
        # Statistics name what is ready, and stay open where the repository index is restricted.
        ready = self._call(self._unary.get_inference_statistics).model_stats
        for name in sorted({model.name for model in ready}):
            config = self._call(self._unary.get_model_config, name).config
            if config.platform == "ensemble" and "variant" in config.parameters:
                variants[name] = parse_variant(config.parameters["variant"].string_value)
        return variants

    def results(
        self, variant: str, inputs: Mapping[str, NDArray[Any]]
    ) -> Generator[Any, None, None]:
        """Yield what the stream says, from the first message on that a server gives."""
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

        results, result = self._retry(begin, deadline)
        with closing(results):
            while result is not None:
                yield result
                result = next(results, None)

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
