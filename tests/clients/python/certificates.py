"""An authority, and a server's certificates by it."""

import ssl
from pathlib import Path

import trustme


class Certificates:
    """Certificates that take each other's place in the same two files."""

    def __init__(self, folder: Path):
        self._authority = trustme.CA()
        self.authority, self.certificate, self.key = folder / "ca.pem", folder / "server.pem", folder / "server-key.pem"
        self._authority.cert_pem.write_to_path(str(self.authority))
        self.replace()

    def replace(self, **parameters):
        """A new key and certificate, a file after the other; `parameters` are trustme's."""
        issued = self._authority.issue_cert("localhost", "127.0.0.1", **parameters)
        [certificate] = issued.cert_chain_pems
        self.newest = ssl.PEM_cert_to_DER_cert(certificate.bytes().decode())
        self.key.write_bytes(issued.private_key_pem.bytes())
        self.certificate.write_bytes(certificate.bytes())

    @property
    def settings(self) -> dict[str, str]:
        """The variables that a server wants."""
        return {"EDGELLM__SERVER__TLS_CERT": str(self.certificate), "EDGELLM__SERVER__TLS_KEY": str(self.key)}

    def trusting(self) -> ssl.SSLContext:
        """A client that trusts the authority."""
        return ssl.create_default_context(cafile=self.authority)
