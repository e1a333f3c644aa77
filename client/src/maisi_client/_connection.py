"""A connection to a server: what is asked once, what streams, and when to try again."""

from __future__ import annotations

import itertools
import logging
import random
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import closing
from typing import Any, TypeVar

from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException

from . import _transport as transport
from ._errors import InvalidRequest, ServerUnavailable
from ._tls import Tls
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
_log = logging.getLogger("maisi_client")


class Connection:
    """A server at `url`, with the limits that `Client` explains."""

    def __init__(
        self, url: str, tls: Tls | None, timeout: float, idle_timeout: float, retries: int
    ) -> None:
        self.url, self.timeout = url, timeout
        self.idle_timeout, self.retries = idle_timeout, retries
        self._tls = tls
        self._unary = transport.connect(url, tls)

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
        """Yield what the stream says.

        What a server leaves unfinished, as it stops or dies, is sent again: then the stream says
        the same from its beginning, as the inputs name a seed.
        """
        deadline = time.monotonic() + self.timeout
        for tried in itertools.count():
            try:
                yield from self._once(variant, inputs, deadline)
                return
            except ServerUnavailable as error:
                if not self._pause(tried, deadline, error):
                    raise

    def _once(
        self, variant: str, inputs: Mapping[str, NDArray[Any]], deadline: float
    ) -> Generator[Any, None, None]:
        self._check_taken(variant, inputs)
        results = transport.stream(
            self.url,
            self._tls,
            f"{variant}.stream",
            inputs,
            deadline=deadline,
            idle_timeout=self.idle_timeout,
        )
        with closing(results):
            try:
                yield from results
            except transport.UnknownModel as error:
                raise self._missing(variant) from error

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
        for tried in itertools.count():
            try:
                return attempt()
            except ServerUnavailable as error:
                if not self._pause(tried, deadline, error):
                    raise
        raise AssertionError("unreachable")

    def _pause(self, tried: int, deadline: float, error: ServerUnavailable) -> bool:
        """Wait before the next try, ever longer; tell at once if there is none left."""
        pause = _BACKOFF_SECONDS * 2**tried * random.uniform(0.5, 1.5)  # apart from others
        if tried >= self.retries or time.monotonic() + pause > deadline:
            return False
        _log.info("again in %.1f s: %s", pause, error)
        time.sleep(pause)
        return True
