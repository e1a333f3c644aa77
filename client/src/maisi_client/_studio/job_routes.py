"""The routes of jobs: outlook, queue, cancellation."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from .._errors import InvalidRequest
from .bodies import read_arguments, read_ids, read_object
from .generation import METHODS, paths
from .state import Studio, studio_of


def _call(studio: Studio, body: dict[str, Any], method: str) -> dict[str, Any]:
    """Return the arguments of the client's call that a body describes."""
    mask_id, source_id = read_ids(body)
    if method == "mask" and source_id is not None:
        raise InvalidRequest("source: a mask alone takes none")
    mask = studio.pictures.find(mask_id, "mask")
    source = studio.pictures.find(source_id, "volume")
    return paths(studio.pictures, mask, source, read_arguments(body, method))


async def check(request: Request) -> Response:
    """Return what a request would do."""
    studio = studio_of(request)
    call = _call(studio, await read_object(request), "generate")
    return JSONResponse(await studio.backend.quick.check(**call))


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
    call = _call(studio, body, METHODS[kind])
    arguments = {name: call[name] for name in call if name not in ("mask", "source")}
    return JSONResponse(vars(studio.jobs.submit(kind, *read_ids(body), arguments)), 201)


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
