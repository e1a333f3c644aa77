"""The routes of pictures: upload, list, download, removal."""

from __future__ import annotations

import asyncio
import json
import shutil
import tempfile
from pathlib import Path

from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from .errors import Refused
from .multipart import receive_files
from .pictures import Picture
from .reading import read_upload
from .state import studio_of


def picture_of(request: Request) -> Picture:
    """Return the picture that the address names; raises `Refused` if there is none."""
    return studio_of(request).pictures.get(request.path_params["id"])


async def list_pictures(request: Request) -> Response:
    """Return all pictures, the oldest first."""
    return JSONResponse([picture.json() for picture in studio_of(request).pictures])


async def upload(request: Request) -> Response:
    """Make a picture of files that were sent."""
    studio = studio_of(request)
    kind = request.query_params.get("kind")
    if kind not in ("mask", "volume"):
        raise Refused(400, "invalid_request", "kind is mask or volume, and is missing")
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
    """Return a picture's file."""
    picture = picture_of(request)
    path = studio_of(request).pictures.path(picture)
    return FileResponse(path, media_type="application/gzip", filename=path.name)


async def report(request: Request) -> Response:
    """Return the report of a volume, as `maisi generate` writes it."""
    picture = picture_of(request)
    if picture.report is None:
        raise Refused(404, "not_found", f"'{picture.title}' has no report; it was not generated")
    text = json.dumps(dict(picture.report), indent=2) + "\n"
    return download(text, "application/json", f"{picture.name}.json")


async def remove(request: Request) -> Response:
    """Remove a picture."""
    studio_of(request).pictures.remove(request.path_params["id"])
    return Response(status_code=204)


def download(content: str | bytes, media_type: str, name: str) -> Response:
    """Return a file to save as `name`, which is plain ASCII."""
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    return Response(content, media_type=media_type, headers=headers)


ROUTES = [
    Route("/api/pictures", list_pictures),
    Route("/api/pictures", upload, methods=["POST"]),
    Route("/api/pictures/{id}.nii.gz", nifti),
    Route("/api/pictures/{id}/report.json", report),
    Route("/api/pictures/{id}", remove, methods=["DELETE"]),
]
