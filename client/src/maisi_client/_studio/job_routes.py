"""The routes of jobs: outlook, queue and cancellation."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from .._errors import InvalidRequest
from .bodies import read_arguments, read_ids, read_object
from .generation import METHODS, check_vocabulary, paths
from .pictures import Picture
from .state import Studio, studio_of


def _inputs(
    studio: Studio, body: dict[str, Any], method: str
) -> tuple[Picture | None, Picture | None, dict[str, Any]]:
    """Return the mask, the source and the other arguments that a body describes."""
    mask_id, source_id = read_ids(body)
    if method == "mask" and source_id is not None:
        raise InvalidRequest("source: not allowed in a request for only a mask")
    mask = studio.pictures.find(mask_id, "mask")
    arguments = read_arguments(body, method)
    check_vocabulary(mask, arguments)
    return mask, studio.pictures.find(source_id, "volume"), arguments


async def check(request: Request) -> Response:
    """Return the outlook of a request."""
    studio = studio_of(request)
    inputs = _inputs(studio, await read_object(request), "generate")
    return JSONResponse(await studio.backend.quick.check(**paths(studio.pictures, *inputs)))


async def list_jobs(request: Request) -> Response:
    """Return all jobs, the oldest first."""
    return JSONResponse([vars(job) for job in studio_of(request).jobs])


async def submit(request: Request) -> Response:
    """Queue a job."""
    studio = studio_of(request)
    body = await read_object(request)
    kind = body.get("kind")
    if not isinstance(kind, str) or kind not in METHODS:
        raise InvalidRequest(f"kind is none of {', '.join(METHODS)}")
    mask, source, arguments = _inputs(studio, body, METHODS[kind])
    mask_id, source_id = (picture.id if picture else None for picture in (mask, source))
    job = studio.jobs.submit(kind, mask_id, source_id, arguments)
    return JSONResponse(vars(job), 201)


async def end(request: Request) -> Response:
    """Cancel a job, or remove one that has ended."""
    job = await studio_of(request).jobs.end(request.path_params["id"])
    return Response(status_code=204) if job is None else JSONResponse(vars(job))


ROUTES = [
    Route("/api/check", check, methods=["POST"]),
    Route("/api/jobs", list_jobs),
    Route("/api/jobs", submit, methods=["POST"]),
    Route("/api/jobs/{id}", end, methods=["DELETE"]),
]
