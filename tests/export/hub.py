"""A server on this machine that answers as the Hugging Face hub and its file store do."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "hf_right"
COMMIT = "75ac080fb1083c403793563477724c038e7d430c"


@dataclass
class Hub:
    """The files of the hub, what it refuses, and the requests that it received.

    `files`: (repo, file) -> bytes. `cuts`: bytes after which the store breaks each next answer, or
    with `stall` falls silent until that is set. `requests`: (server, method, path, Range, whether
    with a token).
    """

    files: dict[tuple[str, str], bytes]
    private: set[str] = field(default_factory=set)
    gated: set[str] = field(default_factory=set)
    revisions: dict[str, str] = field(default_factory=lambda: {"main": COMMIT, COMMIT: COMMIT})
    digest: str | None = None
    is_lfs: bool = True
    cuts: list[int] = field(default_factory=list)
    stall: threading.Event | None = None
    requests: list[tuple[str, str, str, str | None, bool]] = field(default_factory=list)
    url: str = ""
    store: str = ""

    def ranges(self) -> list[str | None]:
        """Return the `Range` of every request to the store."""
        return [range_ for server, _, _, range_, _ in self.requests if server == "store"]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub
    name: str

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def answer(self) -> None:
        auth = self.headers.get("Authorization")
        request = (self.name, self.command, self.path, self.headers.get("Range"), auth is not None)
        self.hub.requests.append(request)
        if self.name == "store":
            self.serve()
        else:
            self.resolve(auth)

    def resolve(self, auth: str | None) -> None:
        """Answer /OWNER/NAME/resolve/REVISION/FILE: the store has it."""
        if "/resolve/" not in self.path:
            return self.refuse(404)
        owner, name, _, revision, file = self.path.lstrip("/").split("/", 4)
        repo = f"{owner}/{name}"
        if auth not in (None, f"Bearer {TOKEN}"):
            return self.refuse(401, message="Invalid credentials in Authorization header")
        if repo in self.hub.private and auth is None:
            return self.refuse(401, code="RepoNotFound")
        if repo in self.hub.gated:
            return self.refuse(401 if auth is None else 403, code="GatedRepo")
        if repo not in {stored for stored, _ in self.hub.files}:
            return self.refuse(404, code="RepoNotFound")
        if revision not in self.hub.revisions:
            return self.refuse(404, code="RevisionNotFound")
        if (repo, file) not in self.hub.files:
            return self.refuse(404, code="EntryNotFound")
        content = self.hub.files[repo, file]
        digest = self.hub.digest or hashlib.sha256(content).hexdigest()
        self.send_response(302)
        self.send_header("X-Repo-Commit", self.hub.revisions[revision])
        self.send_header("X-Linked-Etag", f'"{digest if self.hub.is_lfs else digest[:40]}"')
        self.send_header("X-Linked-Size", str(len(content)))
        self.send_header("X-Xet-Hash", "0" * 64)  # as the hub does; plain HTTP must do without it
        self.send_header("Location", f"{self.hub.store}/{repo}/{file}")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def serve(self) -> None:
        """Answer with the file's bytes, from `Range` on, and break where `cuts` says."""
        owner, name, file = self.path.lstrip("/").split("/", 2)
        content = self.hub.files[f"{owner}/{name}", file]
        start = int((self.headers.get("Range") or "bytes=0-")[6:].rstrip("-"))
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        end = start + self.hub.cuts.pop(0) if self.hub.cuts else len(content)
        self.wfile.write(content[start:end])
        if end < len(content):
            self.wfile.flush()
            if self.hub.stall is not None:
                self.hub.stall.wait(60)
            self.close_connection = True

    def refuse(self, status: int, code: str = "", message: str = "") -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", message)
        self.send_header("Content-Length", "0")
        self.end_headers()


@contextmanager
def serve(hub: Hub) -> Iterator[Hub]:
    """Serve `hub` on two ports, the hub's own and its store's."""
    servers = []
    for name in ("hub", "store"):
        handler = type(name, (_Handler,), {"hub": hub, "name": name})
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
    # Two names of this machine: a token for one is not meant for the other.
    hub.url = f"http://127.0.0.1:{servers[0].server_port}"
    hub.store = f"http://localhost:{servers[1].server_port}"
    try:
        yield hub
    finally:
        for server in servers:
            server.shutdown()
            server.server_close()
