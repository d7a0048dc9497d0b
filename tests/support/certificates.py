"""Certificates for tests of TLS: an authority, and what it has signed for a server and a client."""

from __future__ import annotations

import subprocess
from pathlib import Path

NAMES = "subjectAltName=DNS:localhost,IP:127.0.0.1"


class Certificates:
    """Keys and certificates in a directory, valid for a day.

    Attributes:
        authority: certificate of the authority.
        server, server_key: for `localhost` and 127.0.0.1.
        client, client_key: for a client.
        stranger: certificate of another authority.
        locked_key: the client's key, encrypted with `password`.
    """

    password = "of-the-key"  # noqa: S105 - of a key that lives a second

    def __init__(self, directory: Path) -> None:
        self._dir = directory
        self.authority, authority_key = self._self_signed("authority")
        self.stranger, _ = self._self_signed("stranger")
        self.server, self.server_key = self._signed("server", self.authority, authority_key)
        self.client, self.client_key = self._signed("client", self.authority, authority_key)
        self.locked_key = directory / "locked.key"
        self._openssl(
            "pkcs8", "-topk8", "-in", self.client_key, "-out", self.locked_key, "-passout", f"pass:{self.password}"
        )

    def _self_signed(self, name: str) -> tuple[Path, Path]:
        certificate, key = self._dir / f"{name}.pem", self._dir / f"{name}.key"
        self._openssl("req", "-x509", *self._new(name, key), "-days", "1", "-out", certificate)
        return certificate, key

    def _signed(self, name: str, authority: Path, authority_key: Path) -> tuple[Path, Path]:
        certificate, key = self._dir / f"{name}.pem", self._dir / f"{name}.key"
        self._openssl(
            "req", "-x509", *self._new(name, key), "-days", "1", "-addext", NAMES,
            "-addext", "basicConstraints=critical,CA:false",
            "-CA", authority, "-CAkey", authority_key, "-out", certificate,
        )  # fmt: skip
        return certificate, key

    @staticmethod
    def _new(name: str, key: Path) -> list[str | Path]:
        curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-noenc"]
        return [*curve, "-keyout", key, "-subj", f"/CN={name}"]

    @staticmethod
    def _openssl(*args: str | Path) -> None:
        subprocess.run(["openssl", *args], check=True, capture_output=True)
