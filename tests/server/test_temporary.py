"""The server's temporary folder: its parent, its lock and its end."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys

import pytest

from server import temporary
from tests.conftest import ROOT

DEAD = "maisi-serve-1-0123abcd"
PRINT_UNFIT = (
    "import sys; from pathlib import Path; from server import temporary;"
    " print(temporary.unfit(Path(sys.argv[1])))"
)


@pytest.mark.parametrize("name", ["a b", "ü", "a'b", 'a"b', "a;b", "$HOME", "a\nb", "a&b", "#"])
def test_paths_that_a_shell_changes_are_unfit(tmp_path, name):
    (tmp_path / name).mkdir()
    assert temporary.unfit(tmp_path) is None
    assert "characters" in temporary.unfit(tmp_path / name)


def test_a_folder_that_is_not_there_is_unfit(tmp_path):
    assert temporary.unfit(tmp_path / "nowhere") == "no such file or directory"


def test_the_first_fit_folder_is_chosen_and_why_not_the_first(tmp_path):
    odd = tmp_path / "a b"
    odd.mkdir()
    assert temporary.choose_folder([tmp_path, odd]) == (tmp_path, None)
    folder, problem = temporary.choose_folder([odd, tmp_path / "nowhere", tmp_path])
    assert folder == tmp_path
    assert "characters" in problem
    with pytest.raises(ValueError, match=r"'.*/a b': its path.*/nowhere': no such.*set TMPDIR"):
        temporary.choose_folder([odd, tmp_path / "nowhere"])


def in_mount(script: str) -> subprocess.CompletedProcess[str]:
    """Run a script of bash in a mount namespace of its own."""
    process = subprocess.run(
        ["unshare", "-rm", "bash", "-ec", script], cwd=ROOT, capture_output=True, text=True
    )
    if "unshare" in process.stderr or "mount:" in process.stderr:
        pytest.skip(f"no mount namespace: {process.stderr}")
    return process


def test_a_noexec_folder_is_named(tmp_path):
    for flags, expected in (("noexec", "it is mounted noexec"), ("exec", "None")):
        mount = f"mount -t tmpfs -o {flags} none {tmp_path}"
        process = in_mount(f"{mount}; {sys.executable} -c '{PRINT_UNFIT}' {tmp_path}")
        assert process.stdout.strip() == expected


def test_a_read_only_folder_is_unfit(tmp_path):
    mount = f"mount -t tmpfs -o ro none {tmp_path}"
    process = in_mount(f"{mount}; {sys.executable} -c '{PRINT_UNFIT}' {tmp_path}")
    assert process.stdout.strip() == "it cannot be written to"


def test_a_full_folder_ends_the_server_with_a_sentence(tmp_path):
    ports = " ".join(f"--{name}-port=0" for name in ("grpc", "http", "metrics", "status"))
    process = in_mount(
        f"mount -t tmpfs -o size=64k none {tmp_path}; export TMPDIR={tmp_path};"
        f" {sys.executable} -m server {ports} || [[ $? == 1 ]]"
    )
    (line,) = process.stderr.splitlines()
    assert line.startswith(f"serve: {tmp_path}/maisi-serve-")
    assert line.endswith(": No space left on device.")


def test_the_folder_is_locked_while_it_is_there_and_goes(tmp_path, monkeypatch):
    monkeypatch.setattr(temporary, "candidates", lambda: [tmp_path])
    with temporary.folder(DEAD) as (path, descriptor):
        assert path == tmp_path / DEAD
        (path / "file").touch()
        assert os.fstat(descriptor).st_ino == path.stat().st_ino
        assert temporary.sweep([tmp_path]) == 0
        assert (path / "file").exists()
    assert list(tmp_path.iterdir()) == []


def test_what_the_dead_left_is_swept_and_nothing_else(tmp_path, monkeypatch):
    monkeypatch.setattr(temporary, "candidates", lambda: [tmp_path])
    others = ["other", "maisi-serve-abcdefgh", "maisi-serve-2-0123abcd-lock", "maisi-client-1"]
    for name in (DEAD, *others):
        (tmp_path / name).mkdir()
    (tmp_path / "maisi-serve-3-0123abcd").touch()  # a file is not a server's
    (tmp_path / "maisi-serve-4-0123abcd").symlink_to(tmp_path / "other")
    (tmp_path / "other" / "file").touch()
    (tmp_path / DEAD / "link").symlink_to(tmp_path / "other")
    names = sorted(path.name for path in tmp_path.iterdir() if path.name != DEAD)
    with temporary.folder("maisi-serve-5-0123abcd"):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    assert (tmp_path / "other" / "file").exists()


def test_who_inherits_the_lock_keeps_the_folder(tmp_path):
    folder = tmp_path / DEAD
    folder.mkdir()
    descriptor = os.open(folder, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    heir = subprocess.Popen(["sleep", "60"], pass_fds=[descriptor])
    os.close(descriptor)
    try:
        assert temporary.sweep([tmp_path]) == 0
    finally:
        heir.kill()
        heir.wait()
    assert temporary.sweep([tmp_path]) == 1
    assert not folder.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="another user's folder needs root")
def test_another_users_folder_stays(tmp_path):
    (tmp_path / DEAD).mkdir()
    os.chown(tmp_path / DEAD, 12345, 12345)
    assert temporary.sweep([tmp_path]) == 0
    assert (tmp_path / DEAD).exists()
