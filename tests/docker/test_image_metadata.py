"""What the images say of themselves, and how they are asked whether they are well."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from docker import version
from server import __main__ as serve
from server.health import PROBE
from tests.conftest import ROOT
from tests.server.ports import free_ports

DOCKER = ROOT / "docker"
FILES = {"Dockerfile": "maisi", "Dockerfile.cpu": "maisi-cpu", "Dockerfile.client": "maisi-client"}
SERVERS = ["Dockerfile", "Dockerfile.cpu"]
OCI = "org.opencontainers.image."


def stages(name: str) -> dict[str, list[tuple[str, str]]]:
    """Return the instructions of each stage, which is numbered if it has no name."""
    text = re.sub(r"\\\n", " ", (DOCKER / name).read_text())
    found: dict[str, list[tuple[str, str]]] = {}
    for word, rest in re.findall(r"^([A-Z]+) +(.*)$", text, re.MULTILINE):
        if word == "FROM":
            found[rest.partition(" AS ")[2] or str(len(found))] = instructions = []
        elif found:
            instructions.append((word, rest))
    return found


def only(instructions: list[tuple[str, str]], word: str) -> str:
    (rest,) = [rest for other, rest in instructions if other == word]
    return rest


def served(name: str) -> list[tuple[str, str]]:
    """Return the instructions of the stage that is an image of its own."""
    every = stages(name)
    return every.get("server") or list(every.values())[-1]


@pytest.mark.parametrize("name", FILES)
def test_an_image_has_the_labels_of_oci(name: str) -> None:
    labels = dict(re.findall(rf'{re.escape(OCI)}(\S+?)="(.*?)"', only(served(name), "LABEL")))
    assert labels.keys() == {"title", "description", "version", "licenses", "base.name"}
    assert labels["title"] == FILES[name]
    assert (labels["version"], labels["licenses"]) == (version.current(), "Apache-2.0")
    assert labels["base.name"] == "${BASE}"
    assert ("ARG", "BASE") in served(name)  # else it is empty in the stage
    operations = (ROOT / "docs" / "how-to" / "operations.md").read_text()
    assert f"-f docker/{name} -t {labels['title']}:{labels['version']} " in operations


def check(name: str) -> tuple[str, list[str]]:
    """Return the options and the command of an image's check."""
    options, command = re.fullmatch(
        r"(.*?)CMD (\[.*\])", only(served(name), "HEALTHCHECK")
    ).groups()
    return options, json.loads(command)


@pytest.mark.parametrize("name", SERVERS)
def test_the_check_runs_on_what_the_image_runs_on(name: str) -> None:
    options, command = check(name)
    assert command[0] == json.loads(only(served(name), "ENTRYPOINT"))[0]
    (limit,) = re.findall(r"--timeout=(\d+)s", options)
    (waits,) = re.findall(r"timeout=(\d+)\)", command[-1])
    assert PROBE < int(waits) < int(limit)
    assert f":{serve.arguments([]).status_port}/ready" in command[-1]


@pytest.fixture
def status_port() -> Iterator[HTTPServer]:
    """Yield a status port: `paths` has what was asked, `status` is what it answers."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            server.paths.append(self.path)
            self.send_response(server.status)
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    server.paths, server.status = [], 200
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("name", SERVERS)
def test_the_check_fails_unless_the_server_is_ready(name: str, status_port: HTTPServer) -> None:
    """Also with the proxy that Docker puts into containers where one is configured."""
    code = check(name)[1][-1]
    env = {**os.environ, "http_proxy": f"http://127.0.0.1:{free_ports(1)[0]}", "no_proxy": ""}

    def status(port: int) -> int:
        words = [sys.executable, "-c", code.replace(":8003/", f":{port}/")]
        return subprocess.run(words, env=env, capture_output=True).returncode

    assert status(status_port.server_port) == 0
    status_port.status = 503
    assert status(status_port.server_port) == 1
    assert status(free_ports(1)[0]) == 1
    assert status_port.paths == ["/ready", "/ready"]


def test_what_is_no_server_has_no_check() -> None:
    assert only(stages("Dockerfile")["export"], "HEALTHCHECK") == "NONE"  # it is made of a server
    assert all(word != "HEALTHCHECK" for word, _ in served("Dockerfile.client"))
