"""TLS between client and server."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from .._errors import InvalidRequest


@dataclass(frozen=True)
class Tls:
    """The settings of a TLS connection; the fields are paths of PEM files.

    `ca` has the certificates of the authorities that sign the server's certificate; None for those
    that gRPC trusts by default. `certificate` and `key` are the client's own, for a server that
    requires them (mTLS).
    """

    ca: str | os.PathLike[str] | None = None
    certificate: str | os.PathLike[str] | None = None
    key: str | os.PathLike[str] | None = None

    @classmethod
    def of(
        cls, ca: str | None = None, certificate: str | None = None, key: str | None = None
    ) -> Tls | None:
        """Return the settings with these paths; None without any path.

        The defaults are the variables MAISI_CA, MAISI_CERTIFICATE and MAISI_KEY.
        """
        paths = {"MAISI_CA": ca, "MAISI_CERTIFICATE": certificate, "MAISI_KEY": key}
        files = [path or os.environ.get(name) or None for name, path in paths.items()]
        return cls(*files) if any(files) else None

    def options(self) -> dict[str, Any]:
        """Return the arguments for tritonclient; raises `InvalidRequest` for an unreadable file."""
        if (self.certificate is None) != (self.key is None):
            raise InvalidRequest("tls: a client's certificate and key must be given together")
        names = {
            "root_certificates": self.ca,
            "certificate_chain": self.certificate,
            "private_key": self.key,
        }
        for path in names.values():
            if path is not None and not os.access(path, os.R_OK):
                raise InvalidRequest(f"tls: {os.fspath(path)} cannot be read")
        files = {name: os.fspath(path) for name, path in names.items() if path is not None}
        return {"ssl": True, **files}
