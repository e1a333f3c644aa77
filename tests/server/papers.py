"""Certificates for tests."""

from __future__ import annotations


class Papers:
    """The files of one who has a certificate of `ca`."""

    def __init__(self, ca, folder, name, **more):
        folder.mkdir()
        issued = ca.issue_cert(name, **more)
        self.ca, self.certificate, self.key = (folder / x for x in ("ca.pem", "crt.pem", "key.pem"))
        ca.cert_pem.write_to_path(self.ca)
        issued.private_key_pem.write_to_path(self.key)
        for blob in issued.cert_chain_pems:
            blob.write_to_path(self.certificate, append=True)

    @property
    def served(self):
        return [f"--tls-certificate={self.certificate}", f"--tls-key={self.key}"]
