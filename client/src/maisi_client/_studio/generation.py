"""Run jobs as calls of the client, and add their results as pictures."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from .._errors import InvalidRequest, MaisiError, ServerUnavailable
from .._volume import Progress
from .backend import Backend
from .jobs import Job
from .pictures import Call, Picture, Pictures, save_mask, save_volume

METHODS = {"volume": "generate", "mask": "mask"}  # the client's method for each kind of job


def paths(
    pictures: Pictures, mask: Picture | None, source: Picture | None, arguments: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the arguments of a call, including the paths of its pictures."""
    call = dict(arguments)
    if mask is not None:
        call["mask"] = str(pictures.path(mask))
    if source is not None:
        call["source"] = str(pictures.path(source))
    return call


def check_vocabulary(mask: Picture | None, arguments: Mapping[str, Any]) -> None:
    """Raise `InvalidRequest` if the arguments have a vocabulary, but the ids are MAISI's."""
    vocabulary = arguments.get("vocabulary")
    if mask is not None and vocabulary and mask.vocabulary not in (None, vocabulary):
        raise InvalidRequest(
            f"vocabulary is '{vocabulary}', but '{mask.title}' has the vocabulary"
            f" '{mask.vocabulary}'"
        )


async def make(
    backend: Backend, pictures: Pictures, job: Job, on_progress: Callable[[Progress], None]
) -> str:
    """Run a job and add its picture; return the picture's id.

    Raises `MaisiError` if the server fails, or `Refused` if a picture was removed.
    """
    mask, source = pictures.find(job.mask, "mask"), pictures.find(job.source, "volume")
    variant = await backend.variant(job.arguments.get("variant"))
    arguments = {**job.arguments, "variant": variant.name}
    method, seed = METHODS[job.kind], arguments["seed"]
    request = paths(pictures, mask, source, arguments)
    try:
        result = await getattr(backend.client, method)(on_progress=on_progress, **request)
    except ServerUnavailable:
        with suppress(MaisiError):  # the lookup has published the error to the page
            await backend.look_up()
        raise

    def call(name: str) -> Call:
        mask_file, source_file = (
            None if one is None else f"{one.name}.nii.gz" for one in (mask, source)
        )
        return Call(method, mask_file, source_file, arguments, pictures.reserve(name))

    if method == "mask":
        title = f"{mask.title}, changed" if mask else "generated mask"
        mask_call = call(f"{mask.name if mask else variant.name}-mask-seed{seed}")
        picture = await asyncio.to_thread(
            save_mask,
            pictures.folder,
            result,
            mask_call.output,
            f"{title}, seed {seed}",
            call=mask_call,
            vocabulary="maisi",
        )
        pictures.add(picture)
        return picture.id
    modality = result.report["modality"]
    volume, own_mask = await asyncio.to_thread(
        save_volume,
        pictures.folder,
        result,
        call(f"{modality}-seed{seed}"),
        f"{modality}, seed {seed}",
        job.mask,
        job.source,
    )
    pictures.add(*filter(None, [own_mask, volume]))
    return volume.id
