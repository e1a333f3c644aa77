"""A browser for the tests: the page's server in a thread, asked over HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import io
import json
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from typing import Any

import maisi_client
import nibabel as nib
import numpy as np
import pytest
from maisi_client._studio.backend import Target
from maisi_client._studio.security import Access
from maisi_client._studio.serving import hosts, page_server
from numpy.typing import NDArray

from tests.conftest import PATIENCE, ROOT

_AFFINE = np.array([[-2.0, 0, 0, 30], [0, 2, 0, -40], [0, 0, 2, -20], [0, 0, 0, 1]])  # LAS


@contextlib.contextmanager
def studio(url: str) -> Iterator[Browser]:
    """Serve the page for the MAISI server at `url`, and yield a browser that opened its link."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        access = Access(hosts("127.0.0.1", listener.getsockname()[1]))
        with page_server(access, Target(url)) as server:
            thread = threading.Thread(
                target=lambda: asyncio.run(server.serve(sockets=[listener])), daemon=True
            )
            thread.start()
            try:
                yield Browser(access)
            finally:
                server.should_exit = True
                thread.join(PATIENCE)
                assert not thread.is_alive()


class Browser:
    """Requests to the page's server, with the cookie of its link."""

    def __init__(self, access: Access) -> None:
        self.access, self.host = access, access.hosts[0]
        _, headers, _ = self.raw("GET", f"/?token={access.token}", {})
        self.cookie = str(headers["set-cookie"]).partition(";")[0]

    def raw(
        self, method: str, path: str, headers: dict[str, str], body: Any = None
    ) -> tuple[int, dict[str, str], bytes]:
        """Return status, headers and body of a request with these headers alone."""
        connection = HTTPConnection(self.host, timeout=PATIENCE)
        with contextlib.closing(connection):
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            lower = {name.lower(): value for name, value in answer.getheaders()}
            return answer.status, lower, answer.read()

    @property
    def headers(self) -> dict[str, str]:
        """The headers that the page sends."""
        return {"Cookie": self.cookie, "X-Maisi": "1"}

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        """Return status and body of a request; JSON is parsed."""
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        status, answer, content = self.raw(method, path, {**self.headers, **names}, body)
        as_json = answer.get("content-type") == "application/json"
        return status, json.loads(content) if as_json and content else content

    def get(self, path: str) -> Any:
        """Return the body of a request that succeeds."""
        status, body = self.ask("GET", path)
        assert status == 200, (status, body)
        return body

    def post(self, path: str, body: Any) -> tuple[int, Any]:
        """Send JSON; return status and body."""
        return self.ask("POST", path, json.dumps(body), Content_Type="application/json")

    def error(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, str]:
        """Return status and sentence of a request that fails."""
        status, answer = self.ask(method, path, body, **headers)
        assert status >= 400 and answer["error"].keys() == {"kind", "message"}, answer
        return status, str(answer["error"]["message"])

    def upload(self, kind: str, *files: tuple[str, bytes]) -> tuple[int, Any]:
        """Upload files, pairs of name and content; return status and body."""
        boundary = secrets.token_hex(16)
        body = io.BytesIO()
        for name, content in files:
            head = f'Content-Disposition: form-data; name="files"; filename="{name}"'
            body.write(f"--{boundary}\r\n{head}\r\n\r\n".encode() + content + b"\r\n")
        body.write(f"--{boundary}--\r\n".encode())
        content_type = f"multipart/form-data; boundary={boundary}"
        path = f"/api/pictures?kind={kind}"
        return self.ask("POST", path, body.getvalue(), Content_Type=content_type)

    def uploaded(self, kind: str, *files: tuple[str, bytes]) -> dict[str, Any]:
        """Return the picture of an upload that succeeds."""
        status, picture = self.upload(kind, *files)
        assert status == 201, picture
        return dict(picture)

    def download(self, picture: dict[str, Any], folder: Path) -> Path:
        """Save a picture under its download name; return the path."""
        _, headers, content = self.raw("GET", f"/api/pictures/{picture['id']}.nii.gz", self.headers)
        path = folder / headers["content-disposition"].split('"')[1]
        path.write_bytes(content)
        return path

    def finished(self, kind: str, **request: Any) -> dict[str, Any]:
        """Return a job once it has ended."""
        status, job = self.post("/api/jobs", {"kind": kind, **request})
        assert status == 201, job
        return self.wait(job["id"], lambda job: job["state"] not in ("waiting", "running"))

    def wait(self, id_: str, condition: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
        """Return a job once the condition holds."""
        deadline = time.monotonic() + PATIENCE
        while True:
            (job,) = (job for job in self.get("/api/jobs") if job["id"] == id_)
            if condition(job):
                return dict(job)
            assert time.monotonic() < deadline, job
            time.sleep(0.05)

    @contextlib.contextmanager
    def events(self) -> Iterator[Iterator[tuple[str, Any]]]:
        """Yield the events from now on, as pairs of name and data."""
        connection = HTTPConnection(self.host, timeout=PATIENCE)
        with contextlib.closing(connection):
            connection.request("GET", "/api/events", headers=self.headers)
            answer = connection.getresponse()
            assert answer.readline().startswith(b":")
            yield _events(answer)


def _events(answer: HTTPResponse) -> Iterator[tuple[str, Any]]:
    name = ""
    while line := answer.readline().decode():
        if line.startswith("event: "):
            name = line.removeprefix("event: ").strip()
        elif line.startswith("data: "):
            yield name, json.loads(line.removeprefix("data: "))


def labels(times: int = 1) -> NDArray[np.uint8]:
    """Return a crop of the example's brain, `[32, 32, 32]` at 2 mm, so often along each axis."""
    example = nib.load(ROOT / "examples" / "brain_mask.nii.gz")
    crop = np.asarray(example.dataobj)[32:64, 40:72, 32:64].astype(np.uint8)
    return np.tile(crop, [times] * 3)


def nifti(values: NDArray[Any], affine: NDArray[Any] = _AFFINE) -> bytes:
    """Return the bytes of a NIfTI file, .nii.gz."""
    image = nib.Nifti1Image(values, affine)
    image.header.set_xyzt_units("mm")
    return gzip.compress(image.to_bytes(), 1, mtime=0)


def loaded(content: bytes) -> nib.Nifti1Image:
    """Return the image of a .nii.gz file."""
    return nib.Nifti1Image.from_bytes(gzip.decompress(content))


def series(folder: Path) -> dict[str, bytes]:
    """Return the files of a CT series with its Segmentation."""
    pytest.importorskip("highdicom")
    values = np.where(labels() > 0, np.int16(40), np.int16(-1000))
    affine = np.diag([2.0, 2.0, 3.0, 1.0])
    volume = maisi_client.Volume(nib.Nifti1Image(values, affine), {"modality": "ct"})
    mask = nib.Nifti1Image(labels(), affine)
    paths = maisi_client.save_dicom(volume, folder / "series", mask=mask)
    return {path.name: path.read_bytes() for path in paths}


def files_in(folder: Path) -> list[Path]:
    """Return all files below a folder."""
    return [path for path in folder.rglob("*") if path.is_file()]
