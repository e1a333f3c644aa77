"""The routes of pictures: upload, list, download, paint and remove."""

from __future__ import annotations

import asyncio
import json
import math
import secrets
import shutil
import tempfile
from pathlib import Path

from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from .._counted import counted
from . import painting
from .bodies import read_bytes
from .commands import command, python
from .errors import Refused
from .exports import plan_row, write_dicom
from .multipart import receive_files
from .pictures import Call, Picture
from .reading import read_upload
from .state import studio_of


def picture_of(request: Request) -> Picture:
    """Return the picture with the id in the path; raises `Refused` if there is none."""
    return studio_of(request).pictures.get(request.path_params["id"])


async def list_pictures(request: Request) -> Response:
    """Return all pictures, the oldest first."""
    return JSONResponse([picture.json() for picture in studio_of(request).pictures])


async def upload(request: Request) -> Response:
    """Add a picture from uploaded files."""
    studio = studio_of(request)
    kind = request.query_params.get("kind")
    if kind not in ("mask", "volume"):
        raise Refused(400, "invalid_request", "kind is missing; mask or volume is expected")
    folder = Path(tempfile.mkdtemp(dir=studio.folder / "uploads"))
    try:
        headers = request.headers
        uploads = await receive_files(
            headers.get("content-type", ""), headers.get("content-length"), request.stream(), folder
        )
        async with studio.reading:
            picture = await asyncio.to_thread(read_upload, kind, uploads, studio.pictures)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    studio.pictures.add(picture)
    return JSONResponse(picture.json(), 201)


async def nifti(request: Request) -> Response:
    """Return a picture's file from a new hard link; the picture can be removed meanwhile."""
    studio = studio_of(request)
    path = studio.pictures.path(picture_of(request))
    link = studio.folder / "downloads" / secrets.token_hex(16)
    link.hardlink_to(path)
    clean = BackgroundTask(link.unlink)
    return FileResponse(link, media_type="application/gzip", filename=path.name, background=clean)


async def report(request: Request) -> Response:
    """Return the report of a volume in the form that `maisi generate` writes."""
    picture = picture_of(request)
    if picture.report is None:
        raise Refused(404, "not_found", f"'{picture.title}' has no report; it was not generated")
    text = json.dumps(dict(picture.report), indent=2) + "\n"
    return download(text, "application/json", f"{picture.name}.json")


async def dicom(request: Request) -> Response:
    """Return a .zip with a volume as a DICOM series and its mask, as `save_dicom` writes them."""
    studio, picture = studio_of(request), picture_of(request)
    mask = next((one for one in studio.pictures if one.id == picture.mask), None)
    folder = Path(tempfile.mkdtemp(dir=studio.folder / "downloads"))
    clean = BackgroundTask(shutil.rmtree, folder, ignore_errors=True)
    try:
        async with studio.reading:
            path = await asyncio.to_thread(write_dicom, studio.pictures, picture, mask, folder)
    except BaseException:
        await clean()
        raise
    name = f"{picture.name}-dicom.zip"
    return FileResponse(path, media_type="application/zip", filename=name, background=clean)


async def plan(request: Request) -> Response:
    """Return a plan with the row of a volume."""
    call = _call_of(picture_of(request))
    return download(plan_row(studio_of(request).pictures, call), "text/csv", f"{call.output}.csv")


async def commands(request: Request) -> Response:
    """Return the shell command and the Python code that make a picture's file again."""
    call, backend = _call_of(picture_of(request)), studio_of(request).backend
    server = backend.client.url, backend.target.tls
    return JSONResponse({"command": command(call, *server), "python": python(call, *server)})


async def paint(request: Request) -> Response:
    """Add a mask with the painted voxels of another mask."""
    studio, parent = studio_of(request), picture_of(request)
    if parent.kind != "mask":
        raise Refused(409, "invalid_request", "a volume cannot be painted; a mask is expected")
    variant = await studio.backend.variant(request.query_params.get("variant"))
    voxels = await read_bytes(request, math.prod(parent.shape))
    async with studio.reading:
        picture = await asyncio.to_thread(painting.paint, studio.pictures, parent, voxels, variant)
    studio.pictures.add(picture)
    return JSONResponse(picture.json(), 201)


def _call_of(picture: Picture) -> Call:
    if picture.call is None:
        raise Refused(409, "invalid_request", f"'{picture.title}' was not generated")
    return picture.call


async def remove(request: Request) -> Response:
    """Remove a picture; raises `Refused` while a job needs it."""
    studio, picture = studio_of(request), picture_of(request)
    jobs = [job for job in studio.jobs if picture.id in (job.mask, job.source) and not job.ended]
    if jobs:
        raise Refused(
            409,
            "in_use",
            f"'{picture.title}' is an input of {counted(len(jobs), 'unfinished request')}",
        )
    studio.pictures.remove(picture.id)
    return Response(status_code=204)


def download(content: str | bytes, media_type: str, name: str) -> Response:
    """Return a file that the browser saves as `name`, which is plain ASCII."""
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    return Response(content, media_type=media_type, headers=headers)


ROUTES = [
    Route("/api/pictures", list_pictures),
    Route("/api/pictures", upload, methods=["POST"]),
    Route("/api/pictures/{id}.nii.gz", nifti),
    Route("/api/pictures/{id}/report.json", report),
    Route("/api/pictures/{id}/dicom.zip", dicom),
    Route("/api/pictures/{id}/plan.csv", plan),
    Route("/api/pictures/{id}/command", commands),
    Route("/api/pictures/{id}/paint", paint, methods=["POST"]),
    Route("/api/pictures/{id}", remove, methods=["DELETE"]),
]
