"""The HTTP service of the page, as a Starlette application."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from . import errors, job_routes, picture_routes
from .backend import Target
from .events import Events
from .security import Access, Guard
from .state import open_studio, studio_of

STATIC = Path(__file__).parent / "static"
_TYPES = {
    ".css": "text/css",
    ".html": "text/html",
    ".js": "text/javascript",
    ".txt": "text/plain",
}


def application(access: Access, target: Target, folder: Path, events: Events) -> Guard:
    """Return the guarded application for the server `target`; its files are in the new `folder`."""

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with open_studio(target, folder, events) as studio:
            app.state.studio = studio
            yield

    app = Starlette(
        routes=[
            Route("/", _static),
            Route("/static/{name:path}", _static),
            Route("/api/server", _server),
            Route("/api/events", _events),
            *picture_routes.ROUTES,
            *job_routes.ROUTES,
        ],
        exception_handlers=errors.handlers(folder),
        lifespan=lifespan,
    )
    app.state.static = {
        path.relative_to(STATIC).as_posix(): path for path in STATIC.rglob("*") if path.is_file()
    }
    return Guard(app, access)  # the outermost layer, so that answers of 500 have its headers


async def _static(request: Request) -> Response:
    """Return a file of the page, if it existed at the start."""
    path = request.app.state.static.get(request.path_params.get("name", "index.html"))
    if path is None or path.suffix not in _TYPES:
        raise errors.not_found("file")
    return FileResponse(path, media_type=_TYPES[path.suffix])


async def _server(request: Request) -> Response:
    return JSONResponse(await studio_of(request).backend.json())


async def _events(request: Request) -> Response:
    return StreamingResponse(studio_of(request).events.stream(), media_type="text/event-stream")
