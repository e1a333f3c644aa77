"""Other users of the machine cannot read a server's shared memory at any moment."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from maisi_client import Client

from server import region_modes
from tests.conftest import SHM, Server
from tests.server.mini import volume
from tests.server.threads import repeating


@pytest.mark.slow
def test_no_region_can_be_opened_by_others_while_models_load_work_and_load_again(
    start_server: Callable[..., Server], eventually: Callable[..., None]
) -> None:
    server = start_server(ready=False)
    modes: dict[str, set[int]] = {}

    def look() -> None:
        for path in SHM.glob(f"maisi-serve-{server.pid}-*"):
            with suppress(FileNotFoundError):
                modes.setdefault(path.name, set()).add(path.stat().st_mode & 0o777)

    with repeating(look, pause=0.001):
        server.wait_ready()
        expected, _ = volume(server, masked=True)
        with Client(server.grpc) as client:  # large enough for the client's own shared memory
            client.generate(size=[128, 128, 128], steps=1)
        before = set(server.shared_memory())
        server.stub("mini.flow").kill()
        eventually(lambda: "mini.flow serves again" in server.log)
        assert set(server.shared_memory()) - before  # the new process has regions of its own
        assert (volume(server, masked=True)[0] == expected).all()
    assert len(modes) > 8
    assert set().union(*modes.values()) == {0o600}


@pytest.mark.parametrize(("mode", "result"), [(0o644, 0o600), (0o640, 0o640), (0o700, 0o700)])
def test_the_filter_ignores_only_the_mode_that_boost_sets(
    tmp_path: Path, mode: int, result: int
) -> None:
    file = tmp_path / "region"
    again = "import os, sys; os.fchmod(os.open(sys.argv[1], os.O_RDWR), int(sys.argv[2]))"
    program = (
        "import subprocess, sys; "
        "from server.region_modes import ignore_open_modes; assert ignore_open_modes();"
        f"code = {again!r}; exec(code);"
        "subprocess.run([sys.executable, '-c', code, *sys.argv[1:]], check=True)"
    )
    file.touch(0o600)
    command = [sys.executable, "-c", program, str(file), str(mode)]
    subprocess.run(command, check=True)
    assert file.stat().st_mode & 0o777 == result


def test_regions_are_closed_where_no_filter_could() -> None:
    prefix = f"maisi-test-{os.getpid()}-"
    files = [SHM / f"{prefix}{name}" for name in ("open", "closed")]
    try:
        for file, mode in zip(files, (0o644, 0o600), strict=True):
            file.touch()
            file.chmod(mode)
        region_modes.close_regions(prefix)
        assert [file.stat().st_mode & 0o777 for file in files] == [0o600, 0o600]
    finally:
        for file in files:
            file.unlink(missing_ok=True)
