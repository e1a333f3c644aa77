"""Certificates for tests."""

from __future__ import annotations


class Papers:
    """The PEM files of somebody with a certificate of `ca`."""

    def __init__(self, ca, folder, identity, **options):
        folder.mkdir()
        issued = ca.issue_cert(identity, **options)
        names = ("ca.pem", "crt.pem", "key.pem")
        self.ca, self.certificate, self.key = (folder / name for name in names)
        ca.cert_pem.write_to_path(self.ca)
        issued.private_key_pem.write_to_path(self.key)
        for blob in issued.cert_chain_pems:
            blob.write_to_path(self.certificate, append=True)

    @property
    def server_options(self):
        return [f"--tls-certificate={self.certificate}", f"--tls-key={self.key}"]
