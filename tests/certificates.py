"""Certificates that tests make for themselves."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

OPENSSL = shutil.which("openssl") or ""

needs_openssl = pytest.mark.skipif(
    not OPENSSL, reason="openssl, which makes the certificates, is missing"
)


def make_certificates(folder: Path) -> Path:
    """Make an authority, and with it the certificates ``server`` and ``client``.

    Returns:
        The folder, with ``ca.pem``, and ``.pem`` and ``.key`` of both.
    """

    def openssl(*arguments: str) -> None:
        subprocess.run([OPENSSL, *arguments], cwd=folder, check=True, capture_output=True)

    new = ("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    openssl(*new, "-x509", "-days", "2", "-subj", "/CN=ca", "-keyout", "ca.key", "-out", "ca.pem")
    for name in ("server", "client"):
        openssl(*new, "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.csr")
        (folder / "extensions").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
        sign = ("x509", "-req", "-days", "2", "-CA", "ca.pem", "-CAkey", "ca.key")
        openssl(
            *sign, "-CAcreateserial", "-in", f"{name}.csr", "-out", f"{name}.pem",
            "-extfile", "extensions",
        )  # fmt: skip
    return folder
