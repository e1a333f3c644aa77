"""Prevent other users from reading the shared memory of tritonserver and its models.

Boost creates a region with mode 0644 and then sets this mode with fchmod, so a umask has no effect.
If another user opens the region before its mode is changed, that user can continue to read it. The
kernel therefore ignores this call in tritonserver and its child processes, so that the
umask takes effect.
"""

from __future__ import annotations

import ctypes
import struct
from contextlib import suppress

from server.shared_memory import own_files

UMASK = 0o077
_OPEN_MODE = 0o644  # the mode in boost::interprocess::permissions
_NO_NEW_PRIVILEGES = 38  # of prctl, linux/prctl.h
_SECCOMP, _SET_FILTER, _SPECTRE_AS_BEFORE = 317, 1, 4  # of x86-64, linux/seccomp.h
_LOAD, _EQUAL, _RETURN = 0x20, 0x15, 0x06  # of classic BPF, linux/bpf_common.h
_X86_64, _FCHMOD = 0xC000003E, 91  # linux/audit.h, asm/unistd_64.h
_SKIP, _ALLOW = 0x00050000, 0x7FFF0000  # SECCOMP_RET_ERRNO with 0, which is success; RET_ALLOW
# Offsets of struct seccomp_data: the call's number at 0, the architecture at 4, the mode at 24.
_FILTER = b"".join(
    struct.pack("=HBBI", *instruction)
    for instruction in (
        (_LOAD, 0, 0, 4),
        (_EQUAL, 0, 5, _X86_64),
        (_LOAD, 0, 0, 0),
        (_EQUAL, 0, 3, _FCHMOD),
        (_LOAD, 0, 0, 24),
        (_EQUAL, 0, 1, _OPEN_MODE),
        (_RETURN, 0, 0, _SKIP),
        (_RETURN, 0, 0, _ALLOW),
    )
)


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def ignore_open_modes() -> bool:
    """Let the kernel ignore fchmod to 0644 in this process and its child processes.

    Return False if the kernel or a sandbox does not allow such filters.
    """
    libc, program = ctypes.CDLL(None), _Program(len(_FILTER) // 8, _FILTER)
    libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    status: int = libc.syscall(_SECCOMP, _SET_FILTER, _SPECTRE_AS_BEFORE, ctypes.byref(program))
    return status == 0


def close_regions(prefix: str) -> None:
    """Set the files of /dev/shm under `prefix` to mode 0600, for kernels without such filters."""
    for path in own_files(prefix):
        with suppress(FileNotFoundError):
            if path.stat().st_mode & UMASK:
                path.chmod(0o600)
