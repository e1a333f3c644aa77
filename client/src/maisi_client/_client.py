"""The client: it sends a mask or a grid to a server and returns the volume."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Generator
from contextlib import closing
from types import TracebackType
from typing import TYPE_CHECKING, Any

import nibabel as nib

from ._arguments import Arguments, MaskArguments, Picture
from ._request import prepare
from ._signature import lists_keywords_of
from ._transport import channel, threads
from ._transport.address import DEFAULT_URL
from ._transport.operations import Operations
from ._transport.pool import Pool, PooledServer
from ._transport.session import Session
from ._transport.tls import Tls
from ._variant import Capacity, Variant
from ._volume import Progress, Volume

if TYPE_CHECKING:
    from typing_extensions import Unpack


class Client:
    """A client of MAISI Triton servers, by gRPC.

    `url` is `host:port`, or several with commas between. By default it is the environment variable
    `MAISI_URL`, else `localhost:8001`. With several servers, a request goes to the server with the
    fewest requests of this client; a server that does not answer is not used for a while.

    `tls` has the files for TLS. By default they are those that `MAISI_CA`, `MAISI_CERTIFICATE` and
    `MAISI_KEY` name; without them the connection is not encrypted. `timeout` limits a whole
    request, in seconds, with queueing and retries. `idle_timeout` limits the seconds between two
    messages after the server has begun.

    A request is sent again, up to `retries` times and after growing pauses, if no server answers,
    the server is full, or it stops or fails before the end. Every attempt has the same seed.
    Large volumes to and from a server of the same user on this machine go through shared memory
    if possible. Threads may share a client.
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
        channel.check_seconds(timeout=timeout, idle_timeout=idle_timeout)
        self._tls = tls or Tls.of()
        self._pool = Pool(self.url, lambda url: channel.connect(url, self._tls))
        self._session = Session(self._pool, self.url, timeout, idle_timeout, retries)
        self._poll: Callable[[], None] = lambda: None

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
        """Close the connections."""
        for server in self._pool.servers:
            server.connection.close()

    @lists_keywords_of(MaskArguments, Arguments)
    def generate(
        self,
        mask: Picture | None = None,
        *,
        on_progress: Callable[[Progress], object] | None = None,
        **arguments: Unpack[Arguments],
    ) -> Volume:
        """Return the volume of a request; see `stream` for the arguments and errors.

        `on_progress` is called with every `Progress`. An exception, such as the
        `KeyboardInterrupt` of Ctrl-C, cancels the request on the server.
        """
        volume: Volume = self._wait(self.stream(mask, **arguments), on_progress)
        return volume

    @lists_keywords_of(MaskArguments, Arguments)
    def stream(
        self, mask: Picture | None = None, **arguments: Unpack[Arguments]
    ) -> Generator[Progress | Volume, None, None]:
        """Yield `Progress` while the server works, then the `Volume`.

        `mask` is a 3-D label mask, a path or an image, of any orientation and voxel size. Some
        variants take no mask. Without a mask and an anatomy, the server makes only an image: `size`
        voxels `[X, Y, Z]` at `spacing` mm, RAS+, its middle at the origin.

        The same seed, mask and arguments give the same volume. Without a seed, the client draws a
        random one; the report has it. The call itself raises `InvalidRequest` for wrong arguments;
        the first item raises the errors of the server, which are `MaisiError`. Closing the iterator
        early cancels the request.
        """
        return self._events(self._session.volume(prepare(mask, arguments)))

    @lists_keywords_of(MaskArguments)
    def mask(
        self,
        mask: Picture | None = None,
        *,
        on_progress: Callable[[Progress], object] | None = None,
        **arguments: Unpack[MaskArguments],
    ) -> nib.Nifti1Image:
        """Return only the mask that `generate` would follow, uint8 in MAISI's ids.

        The mask is generated from an `anatomy`, or is the `mask` of the request after the server
        has completed it: translated from its vocabulary, with the body around its organs. Raises
        `MaisiError`.
        """
        request = prepare(mask, arguments, mask_only=True)
        return self._wait(self._events(self._session.mask(request)), on_progress)

    @lists_keywords_of(MaskArguments, Arguments)
    def check(self, mask: Picture | None = None, **arguments: Unpack[Arguments]) -> dict[str, Any]:
        """Return what `generate` would do with these arguments, without doing it.

        The result has every parameter with its default, and these keys:

        - `padded_size`;
        - `labels`: id, name, voxels and millilitres of each label in the mask that the server would
          use;
        - `warnings`: how the request differs from the training data;
        - `expected_gb`: the memory of the decoder without a budget;
        - `expected_seconds`: the time of the request, None until the server has made a volume;
        - `expected_wait_seconds`: the time of the requests before this one.

        Raises `MaisiError`, as `generate` would.
        """
        request = prepare(mask, arguments, check=True)
        outlook: dict[str, Any] = self._wait(self._events(self._session.outlook(request)))
        return outlook

    def info(self) -> dict[str, Variant]:
        """Return every variant that is ready on the server, by name; raises `MaisiError`."""
        variants: dict[str, Variant] = self._wait(self._events(self._session.variants()))
        return variants

    def _preferring(self, server: PooledServer[Any], poll: Callable[[], None]) -> Client:
        """Return a copy of this client that uses other servers only while `server` rests.

        While a request waits, it calls `poll` once a second. A `BaseException` that `poll` raises
        cancels the request.
        """
        client = copy.copy(self)
        client._session, client._poll = self._session.preferring(server), poll
        return client

    def _capacity(self, server: PooledServer[Any]) -> Capacity:
        """Return the capacity that a server publishes; raises `MaisiError` without an answer."""
        capacity: Capacity = self._wait(self._events(self._session.capacity(server)))
        return capacity

    def _events(self, operations: Operations[None]) -> Generator[Any, None, None]:
        return threads.events(operations, self._tls, self._poll)

    def _wait(
        self,
        events: Generator[Any, None, None],
        on_progress: Callable[[Progress], object] | None = None,
    ) -> Any:
        """Return the event that is not `Progress`, after the end of the events.

        The pool counts a request as a success only at the end of its events.
        """
        result = None
        with closing(events):
            for event in events:
                if not isinstance(event, Progress):
                    result = event
                elif on_progress is not None:
                    on_progress(event)
        assert result is not None, "events have a result, or raise"
        return result
