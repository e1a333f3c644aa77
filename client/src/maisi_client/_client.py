"""The client: a mask or a grid in, a volume out."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator
from contextlib import closing
from types import TracebackType
from typing import TYPE_CHECKING, Any

import nibabel as nib

from . import _answer as answer
from ._arguments import Arguments, MaskArguments, Picture
from ._errors import ServerError
from ._request import Request, prepare
from ._signature import lists_keywords_of
from ._transport.address import DEFAULT_URL
from ._transport.connection import Connection
from ._transport.tls import Tls
from ._variant import Variant
from ._volume import Progress, Volume

if TYPE_CHECKING:
    from typing_extensions import Unpack


class Client:
    """MAISI Triton servers, reached by gRPC.

    `url` is `host:port`, or several with commas between: then a request goes to the server with
    the fewest of this client's, and one that does not answer is left out for a while. By default
    it is the environment variable `MAISI_URL`, else `localhost:8001`. `tls` encrypts; by default
    the files that `MAISI_CA`, `MAISI_CERTIFICATE` and `MAISI_KEY` name, else nothing. `timeout`
    bounds a whole request in seconds, waiting and retries included; `idle_timeout` bounds the
    silence between two signs of progress once the server has begun.
    A request that finds no server or no room, or that a server leaves unfinished as it stops, dies
    or fails, is sent again, `retries` more times, ever more seldom: the seed makes the same volume.
    Large volumes to and from a server of the same user on this machine go through shared memory,
    where that can be had. Threads may share a client.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        tls: Tls | None = None,
        timeout: float = 3600.0,
        idle_timeout: float = 300.0,
        retries: int = 3,
    ) -> None:
        self.url = url or os.environ.get("MAISI_URL") or DEFAULT_URL
        self._server = Connection(self.url, tls or Tls.of(), timeout, idle_timeout, retries)

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
        self._server.close()

    @lists_keywords_of(MaskArguments, Arguments)
    def generate(
        self,
        mask: Picture | None = None,
        *,
        on_progress: Callable[[Progress], object] | None = None,
        **arguments: Unpack[Arguments],
    ) -> Volume:
        """Make a volume and wait for it, as `stream` does.

        `on_progress` is called with every `Progress`. Leaving by an exception, such as the
        `KeyboardInterrupt` of Ctrl-C, cancels the request on the server.
        """
        with closing(self.stream(mask, **arguments)) as events:
            for event in events:
                if isinstance(event, Volume):
                    return event
                if on_progress is not None:
                    on_progress(event)
        raise AssertionError("a stream ends with a volume or raises")

    @lists_keywords_of(MaskArguments, Arguments)
    def stream(
        self, mask: Picture | None = None, **arguments: Unpack[Arguments]
    ) -> Generator[Progress | Volume, None, None]:
        """Yield `Progress` while the server works, then the `Volume`.

        `mask` is a 3-D label map, a path or an image, of any orientation and voxel size; some
        variants take none. Without one, and without an anatomy, an image alone is made: `size`
        voxels `[X, Y, Z]` at `spacing` mm, RAS+, its middle at the origin. `Arguments` lists what
        else may be asked.

        The same seed, mask and arguments give the same volume; without a seed one is drawn, and
        reported. `InvalidRequest` about the arguments is raised by the call itself, what the server
        refuses at the first item. Closing the iterator early cancels the request. Raises
        `MaisiError`; see there.
        """
        return self._events(prepare(mask, arguments))

    @lists_keywords_of(MaskArguments)
    def mask(
        self,
        mask: Picture | None = None,
        *,
        on_progress: Callable[[Progress], object] | None = None,
        **arguments: Unpack[MaskArguments],
    ) -> nib.Nifti1Image:
        """Return the mask alone that `generate` would follow, uint8 in MAISI's ids.

        Made from an `anatomy`, or a `mask` as the server completes it: translated from its
        vocabulary, with the body around its organs. Raises `MaisiError`.
        """
        request = prepare(mask, arguments, mask_only=True)
        with closing(self._server.results(request)) as results:
            for result in results:
                if on_progress is not None and (progress := answer.progress(result)) is not None:
                    on_progress(progress)
                report = answer.report(result)
                made = report and answer.mask(result, report, request)
                if made is not None:
                    return made
        raise ServerError(f"the server at {self.url} ended without a mask")

    @lists_keywords_of(MaskArguments, Arguments)
    def check(self, mask: Picture | None = None, **arguments: Unpack[Arguments]) -> dict[str, Any]:
        """Return what `generate` would do with these arguments, without doing it.

        The answer has every parameter completed, `padded_size`, `labels` (id, name, voxels and
        millilitres of each in the mask as the server would see it), `warnings` where the request is
        unlike the training data, `expected_gb`, which the decoder would like to hold,
        `expected_seconds`, None until the server has made a volume, and `expected_wait_seconds`,
        which others would take before.
        Raises `MaisiError`, as `generate` would.
        """
        request = prepare(mask, arguments, check=True)
        with closing(self._server.results(request)) as results:
            for result in results:
                if (report := answer.outlook(result, request)) is not None:
                    return report
        raise ServerError(f"the server at {self.url} ended without an answer")

    def info(self) -> dict[str, Variant]:
        """Return every variant that is ready on the server, by name."""
        return self._server.variants()

    def _events(self, request: Request) -> Generator[Progress | Volume, None, None]:
        volume = None
        with closing(self._server.results(request)) as results:
            for result in results:
                if (progress := answer.progress(result)) is not None:
                    yield progress
                volume = answer.volume(result, request) or volume
        if volume is None:
            raise ServerError(f"the server at {self.url} ended without a volume")
        yield volume
