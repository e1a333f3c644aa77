"""The client: a mask or a grid in, a volume out."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from types import TracebackType
from typing import Any

import nibabel as nib
from numpy.typing import NDArray

from ._connection import Connection
from ._errors import InvalidRequest, ServerError
from ._request import Picture, Request, place, place_mask, prepare
from ._tls import Tls
from ._variant import Variant
from ._volume import Progress, Volume

DEFAULT_URL = "localhost:8001"


class Client:
    """A MAISI Triton server, reached by gRPC.

    `url` is `host:port`; by default the environment variable `MAISI_URL`, else `localhost:8001`.
    `tls` encrypts; by default the files that `MAISI_CA`, `MAISI_CERTIFICATE` and `MAISI_KEY` name,
    else nothing. `timeout` bounds a whole request in seconds, waiting and retries included;
    `idle_timeout` bounds the silence between two signs of progress once the server has begun.
    A request that finds no server or no room, or that a server leaves unfinished as it stops or
    dies, is sent again, `retries` more times, ever more seldom: the seed makes the same volume.
    Threads may share a client.
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
        if "/" in self.url:
            raise InvalidRequest(
                f"the url is '{self.url}'; allowed is host:port of the gRPC service"
            )
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

    def generate(
        self,
        mask: Picture | None = None,
        *,
        variant: str = "mini",
        vocabulary: str | None = None,
        anatomy: str | Mapping[str, float] | None = None,
        organs: str | Sequence[str | int] | None = None,
        augment: bool | None = None,
        source: Picture | None = None,
        strength: float | None = None,
        preset: str | None = None,
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
        redraws: int | None = None,
        on_progress: Callable[[Progress], object] | None = None,
    ) -> Volume:
        """Make a volume and wait for it; the arguments are those of `stream`.

        `on_progress` is called with every `Progress`. Leaving by an exception, such as the
        `KeyboardInterrupt` of Ctrl-C, cancels the request on the server.
        """
        events = self.stream(
            mask,
            variant=variant,
            vocabulary=vocabulary,
            anatomy=anatomy,
            organs=organs,
            augment=augment,
            source=source,
            strength=strength,
            preset=preset,
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
            redraws=redraws,
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
        mask: Picture | None = None,
        *,
        variant: str = "mini",
        vocabulary: str | None = None,
        anatomy: str | Mapping[str, float] | None = None,
        organs: str | Sequence[str | int] | None = None,
        augment: bool | None = None,
        source: Picture | None = None,
        strength: float | None = None,
        preset: str | None = None,
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
        redraws: int | None = None,
    ) -> Generator[Progress | Volume, None, None]:
        """Yield `Progress` while the server works, then the `Volume`.

        `mask` is a 3-D label map, a path or an image, of any orientation and voxel size. Without
        one, an image alone is made: `size` voxels `[X, Y, Z]` at `spacing` mm, RAS+, its middle
        at the origin; `preset` names a size, spacing and modality that the variant was trained
        for. With one, `spacing` (mm along right, anterior, superior) makes the server work on
        another grid: the labels are resampled by nearest neighbour, and the volume comes back to
        the mask's own grid by linear interpolation. Some variants take no mask.

        `source` is a volume to start from, in Hounsfield units or, for MR, in any: it is noised to
        `strength`, 1 being noise alone and 0 the autoencoder's own picture of it, and denoised
        under what else is asked. With a mask, both have one grid.

        `vocabulary` names the label ids of the mask, such as `totalsegmentator-v2`, where they are
        not MAISI's. `anatomy`, such as `{"liver": 0.5, "hepatic tumor": 0.3}`, has the server make
        the mask: sizes 0 to 1 of what is controllable. `organs` names the labels that the mask
        given back keeps. `augment` makes the mask a little different, by the seed: a tumour moves
        within its organ, or all is zoomed. `redraws`: how often a volume
        that does not follow its mask is made anew; the best is given, the report tells of all.

        `top_region` and `bottom_region` are for variants that have body regions; there, regions
        left out are found in the mask. `guidance_interval` is the `[low, high]` part of the way,
        0 at the image and 1 at noise, where guidance is applied; elsewhere a step costs half.

        What is left out takes the variant's default. The same seed, mask and parameters give the
        same volume; without a seed one is drawn, and reported. `InvalidRequest` about the
        arguments is raised by the call itself, what the server refuses at the first item. Closing
        the iterator early cancels the request. Raises `MaisiError`; see there.
        """
        if seed is None:
            seed = secrets.randbelow(2**32)  # drawn here, so that every try makes the same volume
        asked = {
            "vocabulary": vocabulary,
            "anatomy": anatomy,
            "organs": organs,
            "augment": augment,
            "strength": strength,
            "preset": preset,
            "modality": modality,
            "size": size,
            "seed": seed,
            "steps": steps,
            "guidance": guidance,
            "guidance_interval": guidance_interval,
            "solver": solver,
            "top_region": top_region,
            "bottom_region": bottom_region,
            "redraws": redraws,
        }
        return self._events(variant, prepare(mask, source, spacing, asked))

    def mask(
        self,
        mask: Picture | None = None,
        *,
        variant: str = "mini",
        vocabulary: str | None = None,
        anatomy: str | Mapping[str, float] | None = None,
        organs: str | Sequence[str | int] | None = None,
        augment: bool | None = None,
        size: Sequence[int] | None = None,
        spacing: float | Sequence[float] | None = None,
        seed: int | None = None,
        on_progress: Callable[[Progress], object] | None = None,
    ) -> nib.Nifti1Image:
        """Return the mask alone that `generate` would follow, uint8 in MAISI's ids.

        Made from an `anatomy`, or a `mask` as the server completes it: translated from its
        vocabulary, with the body around its organs. Raises `MaisiError`.
        """
        asked = {
            "vocabulary": vocabulary,
            "anatomy": anatomy,
            "organs": organs,
            "augment": augment,
            "size": size,
            "seed": secrets.randbelow(2**32) if seed is None else seed,
            "mask_only": True,
        }
        request = prepare(mask, None, spacing, asked)
        with closing(self._server.results(variant, request.inputs)) as results:
            for result in results:
                if on_progress is not None and (progress := _progress(result)) is not None:
                    on_progress(progress)
                if result.as_numpy("report") is not None:
                    report = json.loads(_text(result.as_numpy("report")))
                    made = _mask(result, report, request)
                    if made is not None:
                        return made
        raise ServerError(f"the server at {self.url} ended without a mask")

    def check(
        self,
        mask: Picture | None = None,
        *,
        variant: str = "mini",
        vocabulary: str | None = None,
        preset: str | None = None,
        modality: str | None = None,
        size: Sequence[int] | None = None,
        spacing: float | Sequence[float] | None = None,
        steps: int | None = None,
        guidance: float | None = None,
    ) -> dict[str, Any]:
        """Return what `generate` would do with these arguments, without doing it.

        The answer has every parameter completed, `padded_size`, `labels` (id, name, voxels and
        millilitres of each in the mask as the server would see it), `warnings` where the request is
        unlike the training data, `expected_gb`, which the decoder would like to hold, and
        `expected_seconds`, None until the server has made a volume.
        Raises `MaisiError`, as `generate` would.
        """
        asked = {
            "vocabulary": vocabulary,
            "preset": preset,
            "modality": modality,
            "size": size,
            "steps": steps,
            "guidance": guidance,
            "check": True,
        }
        request = prepare(mask, None, spacing, asked)
        with closing(self._server.results(variant, request.inputs)) as results:
            for result in results:
                if (report := result.as_numpy("report")) is not None:
                    told: dict[str, Any] = json.loads(_text(report))
                    return told
        raise ServerError(f"the server at {self.url} ended without an answer")

    def info(self) -> dict[str, Variant]:
        """Return every variant that is ready on the server, by name."""
        return self._server.variants()

    def _events(self, variant: str, request: Request) -> Generator[Progress | Volume, None, None]:
        volume = None
        with closing(self._server.results(variant, request.inputs)) as results:
            for result in results:
                if (progress := _progress(result)) is not None:
                    yield progress
                if (image := result.as_numpy("image")) is not None:
                    report = json.loads(_text(result.as_numpy("report")))
                    volume = Volume(
                        place(image, report, request), report, _mask(result, report, request)
                    )
        if volume is None:
            raise ServerError(f"the server at {self.url} ended without a volume")
        yield volume


def _progress(result: Any) -> Progress | None:
    stage = result.as_numpy("stage")
    return None if stage is None else Progress(_text(stage), result.as_numpy("progress").item())


def _mask(result: Any, report: Mapping[str, Any], request: Request) -> nib.Nifti1Image | None:
    used = result.as_numpy("used_mask")
    return None if used is None else place_mask(used, report, request)


def _text(value: NDArray[Any]) -> str:
    item = value.reshape(-1)[0]
    return item.decode() if isinstance(item, bytes) else str(item)
