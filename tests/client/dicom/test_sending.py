"""A send that fails is one sentence with a kind, which says how much was stored."""

from __future__ import annotations

import json
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pydicom
import pytest
from maisi_client import (
    InvalidRequest,
    MaisiError,
    ServerError,
    ServerUnavailable,
    save_dicom,
    send_dicom,
    stow_dicom,
)
from maisi_client._dicom import stow
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless
from pynetdicom import AE, StoragePresentationContexts, build_context, evt
from pynetdicom.presentation import PresentationContext

from tests.client.command import NOBODY, maisi
from tests.client.dicom.volumes import mask_of, volume

COUNT = 16
STORAGE = StoragePresentationContexts


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    ct = volume()
    return save_dicom(ct, tmp_path_factory.mktemp("study") / "dicom", mask=mask_of(ct.image))


@contextmanager
def node(
    on_store: Callable[[Any], int],
    title: str = "ARCHIVE",
    contexts: list[PresentationContext] = STORAGE,
) -> Iterator[str]:
    """Serve a DICOM node that answers each C-STORE with a status; yield its address."""
    receiver = AE(title)
    receiver.supported_contexts = contexts
    server = receiver.start_server(
        ("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, on_store)]
    )
    try:
        yield f"127.0.0.1:{server.server_address[1]}/{title}"
    finally:
        server.shutdown()


def failure(call: Callable[[], None]) -> MaisiError:
    with pytest.raises(MaisiError) as raised:
        call()
    assert "\n" not in str(raised.value)
    return raised.value


@pytest.mark.parametrize(
    ("status", "kind", "words"),
    [
        (0xA700, ServerUnavailable, "does not store '0004.dcm', with status A700"),
        (0xC000, ServerError, "does not store '0004.dcm', with status C000"),
        (None, ServerUnavailable, "no longer answers"),
    ],
)
def test_a_node_that_fails_on_the_way(
    files: list[Path], status: int | None, kind: type[MaisiError], words: str
) -> None:
    stored: list[str] = []

    def on_store(event: Any) -> int:
        if len(stored) < 3:
            stored.append(event.request.AffectedSOPInstanceUID)
            return 0xB000 if len(stored) == 2 else 0
        if status is None:
            event.assoc.abort()
            return 0
        return status

    with node(on_store) as address:
        error = failure(lambda: send_dicom(files, address))
    assert type(error) is kind and len(stored) == 3
    port = address.rpartition("/")[0]
    assert str(error) == f"ARCHIVE at {port} {words}; 3 of {COUNT} objects were stored"


def test_a_node_that_lacks_a_class(files: list[Path]) -> None:
    stored: list[object] = []
    with node(lambda event: stored.append(event) or 0) as address:
        receiver = AE("FEW")
        receiver.supported_contexts = [
            one for one in STORAGE if "RT" not in one.abstract_syntax.name
        ]
        few = receiver.start_server(("127.0.0.1", 0), block=False)
        try:
            own = f"127.0.0.1:{few.server_address[1]}/FEW"
            error = failure(lambda: send_dicom(files, own))
        finally:
            few.shutdown()
        send_dicom(files, address)
    assert isinstance(error, InvalidRequest) and len(stored) == COUNT
    assert str(error).endswith(
        f"does not accept RT Structure Set Storage; 0 of {COUNT} objects were stored"
    )


def only(syntax: str, **of_classes: str) -> list[PresentationContext]:
    """Return contexts of all storage classes in a syntax, and of named classes in another."""
    names = {one.abstract_syntax: UID(one.abstract_syntax).keyword for one in STORAGE}
    return [build_context(uid, of_classes.get(name, syntax)) for uid, name in names.items()]


def test_a_node_that_knows_the_default_syntax_only(files: list[Path], tmp_path: Path) -> None:
    received: list[pydicom.Dataset] = []

    def on_store(event: Any) -> int:
        assert event.context.transfer_syntax == ImplicitVRLittleEndian
        received.append(event.dataset)
        return 0

    with node(on_store, contexts=only(ImplicitVRLittleEndian)) as address:
        send_dicom(files, address)
        originals = [pydicom.dcmread(file) for file in files]
        assert {str(one.file_meta.TransferSyntaxUID) for one in originals} == {
            ExplicitVRLittleEndian,
            ImplicitVRLittleEndian,
        }
        assert len(received) == COUNT
        for one, original in zip(received, originals, strict=True):
            if (
                "PixelData" in original
            ):  # OB with one bit for each pixel, but always OW in implicit VR
                assert one.PixelData == original.PixelData
                original["PixelData"].VR = "OW"
            assert one == pydicom.Dataset(original)

        # Compressed pixel data is not converted: the syntax is refused, not the class.
        originals[0].compress(RLELossless)
        originals[0].save_as(tmp_path / "compressed.dcm")
        error = failure(lambda: send_dicom([tmp_path / "compressed.dcm", *files[1:]], address))
        assert str(error).endswith(
            f"does not accept CT Image Storage in RLE Lossless; 0 of {COUNT} objects were stored"
        )
    assert isinstance(error, InvalidRequest) and len(received) == COUNT


def test_a_node_that_wants_another_syntax(files: list[Path]) -> None:
    contexts = only(ExplicitVRLittleEndian, CTImageStorage=RLELossless)
    with node(lambda _: 0, contexts=contexts) as address:
        error = failure(lambda: send_dicom(files, address))
    assert isinstance(error, InvalidRequest)
    assert str(error).endswith(
        "does not accept CT Image Storage in Explicit VR Little Endian or Implicit VR Little"
        " Endian, RT Structure Set Storage in Implicit VR Little Endian; 0 of 16 objects were"
        " stored"
    )


def test_what_is_accepted_is_not_converted(files: list[Path]) -> None:
    syntaxes: list[str] = []
    with node(lambda event: syntaxes.append(event.context.transfer_syntax) or 0) as address:
        send_dicom(files, address)
    assert syntaxes == [pydicom.dcmread(file).file_meta.TransferSyntaxUID for file in files]


def test_nobody_is_there(files: list[Path]) -> None:
    error = failure(lambda: send_dicom(files, f"{NOBODY}/ARCHIVE"))
    assert (type(error), error.kind) == (ServerUnavailable, "unavailable")
    assert str(error) == f"ARCHIVE at {NOBODY} does not answer; 0 of {COUNT} objects were stored"
    error = failure(lambda: stow_dicom(files, f"http://{NOBODY}/dicom-web"))
    assert (type(error), error.kind) == (ServerUnavailable, "unavailable")
    assert str(error) == (
        f"http://{NOBODY}/dicom-web/studies cannot be reached: Connection refused;"
        f" 0 of {COUNT} objects were stored"
    )
    error = failure(lambda: send_dicom(files, "no-such-host.invalid:104/ARCHIVE"))
    assert type(error) is ServerUnavailable and "cannot be reached: " in str(error)


@contextmanager
def web(answer: Callable[[Any, int], None]) -> Iterator[str]:
    """Serve HTTP: `answer(handler, number)` answers the request of that number, from 1."""
    numbers = iter(range(1, 100))

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            answer(self, next(numbers))

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/dicom-web"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def received(handler: Any) -> bytes:
    """Return the body of the request."""
    content: bytes = handler.rfile.read(int(handler.headers["Content-Length"]))
    return content


def reply(handler: Any, status: int, body: Any = (), **headers: str) -> None:
    """Read the request, and answer it."""
    received(handler)
    respond(handler, status, body, **headers)


def respond(handler: Any, status: int, body: Any = (), **headers: str) -> None:
    """Answer a request that was read."""
    text = json.dumps(body).encode()
    handler.send_response(status)
    for name, value in {**headers, "Content-Length": str(len(text))}.items():
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(text)


@pytest.mark.parametrize(
    ("status", "kind", "words"),
    [
        (401, InvalidRequest, "refuses the user, with HTTP 401"),
        (404, InvalidRequest, "answers HTTP 404 Not Found"),
        (200, ServerUnavailable, "cannot be reached: "),
    ],
)
def test_a_refusal_whose_connection_is_reset_is_said(
    files: list[Path], status: int, kind: type[MaisiError], words: str
) -> None:
    def answer(handler: Any, number: int) -> None:
        if int(handler.headers["Content-Length"]) < 1000:
            reply(handler, status)
            return
        seconds = struct.pack("ii", 1, 0)  # close by a reset, with what was not read
        handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, seconds)
        handler.close_connection = True
        handler.rfile.close()
        handler.connection.close()

    with web(answer) as url:
        error = failure(lambda: stow_dicom(files, url))
    assert type(error) is kind
    assert words in str(error) and f"0 of {COUNT} objects were stored" in str(error)


@pytest.mark.parametrize(
    ("status", "kind", "words"),
    [
        (500, ServerError, "HTTP 500 Internal Server Error"),
        (503, ServerUnavailable, "HTTP 503 Service Unavailable"),
        (409, InvalidRequest, "HTTP 409 Conflict"),
        (302, InvalidRequest, "HTTP 302 Found"),
    ],
)
def test_a_service_that_fails_on_the_way(
    files: list[Path],
    monkeypatch: pytest.MonkeyPatch,
    status: int,
    kind: type[MaisiError],
    words: str,
) -> None:
    monkeypatch.setattr(stow, "_BATCH", 5 * files[0].stat().st_size)

    def answer(handler: Any, number: int) -> None:
        reply(handler, 200 if number == 1 else status, Location="/elsewhere")

    with web(answer) as url:
        error = failure(lambda: stow_dicom(files, url))
    assert type(error) is kind
    assert (
        str(error) == f"{url}/studies answers {words}; before that 5 of {COUNT} objects were stored"
    )


def test_objects_that_a_service_refuses(files: list[Path]) -> None:
    refused = {"00081198": {"vr": "SQ", "Value": [{}, {}]}}
    for body in (refused, [refused]):
        with web(lambda handler, _, body=body: reply(handler, 202, body)) as url:
            error = failure(lambda url=url: stow_dicom(files, url))
        assert f"answers HTTP 202 Accepted, 2 of {COUNT} objects refused; before" in str(error)


def test_a_service_that_hangs_up_or_does_not_want_to_read(files: list[Path]) -> None:
    with web(lambda handler, _: handler.connection.close()) as url:
        error = failure(lambda: stow_dicom(files, url))
    assert type(error) is ServerUnavailable and "cannot be reached" in str(error)

    def unread(handler: Any, _: int) -> None:
        handler.close_connection = True
        handler.send_response(401)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    with web(unread) as url:
        error = failure(lambda: stow_dicom(files[:1], url))
    assert type(error) is InvalidRequest and "with HTTP 401" in str(error)


def test_who_sends(files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, str | None, bytes]] = []

    def answer(handler: Any, _: int) -> None:
        seen.append((handler.path, handler.headers["Authorization"], received(handler)))
        respond(handler, 200)

    with web(answer) as url:
        stow_dicom(files[:2], url)
        stow_dicom(files[:2], url.replace("//", "//me:p%40ss@") + "/studies/")
        monkeypatch.setenv("MAISI_STOW_TOKEN", "t0ken\n")
        stow_dicom(files[:2], url)
    assert {path for path, _, _ in seen} == {"/dicom-web/studies"}
    assert [who for _, who, _ in seen] == [None, "Basic bWU6cEBzcw==", "Bearer t0ken"]
    assert all(file.read_bytes() in content for _, _, content in seen for file in files[:2])
    monkeypatch.setenv("MAISI_STOW_TOKEN", "bad\x07token")
    error = failure(lambda: stow_dicom(files, url))
    assert "$MAISI_STOW_TOKEN has characters other" in str(error) and "bad" not in str(error)


@pytest.mark.parametrize(
    "address",
    ["host", "host:104", "host:104/", "host:0/A", "host:104/" + 17 * "A", "host:1/A\\B", ""],
)
def test_addresses_of_nodes(files: list[Path], address: str) -> None:
    error = failure(lambda: send_dicom(files, address))
    assert type(error) is InvalidRequest and "HOST:PORT/AET is expected" in str(error)


@pytest.mark.parametrize(
    "url",
    [
        *("host/dicom-web", "ftp://host/dicom-web", "http://", "http://h:x/", "http://u:secret@[/"),
        *("http://pacs..example/x", f"http://{'a' * 70}/x", "http://u:secret@pacs example/x"),
    ],
)
def test_addresses_of_services(files: list[Path], url: str) -> None:
    error = failure(lambda: stow_dicom(files, url))
    assert type(error) is InvalidRequest and "its URL is expected" in str(error)
    assert "secret" not in str(error)


def test_the_command_needs_something_to_do(tmp_path: Path) -> None:
    volume().save(tmp_path / "ct.nii.gz")
    result = maisi("dicom", tmp_path / "ct.nii.gz")
    assert result.returncode == 1 and "--to, --send or --stow is expected" in result.stderr
    result = maisi("dicom", tmp_path / "ct.nii.gz", "--send", f"{NOBODY}/A", "--json")
    assert result.returncode == 1 and result.stderr.count("\n") == 1
    assert json.loads(result.stdout)["error"]["kind"] == "unavailable"
