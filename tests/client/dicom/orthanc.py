"""A real Orthanc with its DICOMweb plugin, on free ports of the loopback address."""

from __future__ import annotations

import json
import os
import subprocess
import time
import urllib.error
import urllib.request
from base64 import b64encode
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydicom

from tests.conftest import PATIENCE
from tests.docker import tools
from tests.server.ports import free_ports

TITLE, USER, PASSWORD = "ARCHIVE", "maisi", "secret"
_PACKAGES = ("orthanc", "orthanc-dicomweb")


@dataclass(frozen=True)
class Orthanc:
    """A running Orthanc."""

    http: int
    dicom: int
    process: subprocess.Popen[bytes]

    @property
    def node(self) -> str:
        return f"127.0.0.1:{self.dicom}/{TITLE}"

    @property
    def web(self) -> str:
        return f"http://{USER}:{PASSWORD}@127.0.0.1:{self.http}/dicom-web"

    def get(self, path: str) -> bytes:
        request = urllib.request.Request(f"http://127.0.0.1:{self.http}{path}")
        pair = b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        request.add_header("Authorization", f"Basic {pair}")
        with urllib.request.urlopen(request, timeout=PATIENCE) as response:
            content: bytes = response.read()
        return content

    def instances(self) -> list[str]:
        ids: list[str] = json.loads(self.get("/instances"))
        return ids

    def fetched(self, folder: Path, series: set[str]) -> list[Path]:
        """Write the instances of these series into a folder; return their paths."""
        folder.mkdir()
        paths = []
        for number, instance in enumerate(self.instances()):
            path = folder / f"{number}.dcm"
            path.write_bytes(self.get(f"/instances/{instance}/file"))
            if pydicom.dcmread(path, stop_before_pixels=True).SeriesInstanceUID in series:
                paths.append(path)
            else:
                path.unlink()
        return paths

    def end(self) -> None:
        self.process.kill()  # it sometimes does not end by itself, and keeps nothing of value
        self.process.wait()


def start(folder: Path, **more: Any) -> Orthanc:
    """Start an Orthanc that keeps everything in a folder, and wait until it answers.

    `more` are settings of Orthanc's configuration.
    """
    program = tools.debian_program("usr/sbin/Orthanc", *_PACKAGES)
    share = tools.debian(*_PACKAGES) / "usr" / "share"
    folders = (share, Path("/usr/share"))  # DCMTK may be installed
    dictionary = next(file for one in folders for file in one.glob("libdcmtk*/dicom.dic"))
    plugin = share / "orthanc" / "plugins" / "libOrthancDicomWeb.so"
    http, dicom = free_ports(2)
    settings: dict[str, Any] = {
        **{"Name": "test", "StorageDirectory": str(folder / "storage")},
        **{"IndexDirectory": str(folder / "index"), "Plugins": [str(plugin)]},
        **{"HttpPort": http, "HttpBindAddresses": ["127.0.0.1"], "RemoteAccessAllowed": False},
        **{"AuthenticationEnabled": True, "RegisteredUsers": {USER: PASSWORD}},
        **{"DicomAet": TITLE, "DicomPort": dicom, "DicomCheckCalledAet": True},
        **{"DicomWeb": {"Enable": True, "Root": "/dicom-web/"}},
        **more,
    }
    (folder / "orthanc.json").write_text(json.dumps(settings))
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [program, folder / "orthanc.json"],
            env=os.environ | {"DCMDICTPATH": str(dictionary)},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    orthanc = Orthanc(http, dicom, process)
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            orthanc.get("/dicom-web/studies")
            return orthanc
        except (urllib.error.URLError, ConnectionError):
            if process.poll() is not None or time.monotonic() > deadline:
                orthanc.end()
                raise RuntimeError((folder / "log").read_text()) from None
            time.sleep(0.1)
