"""Certificates of an authority of our own, by the `openssl` program."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

PROGRAM = shutil.which("openssl")
needs_openssl = pytest.mark.skipif(PROGRAM is None, reason="the program openssl is not installed")


@dataclass(frozen=True, kw_only=True)
class Pair:
    certificate: Path
    key: Path


def authority(folder: Path, name: str) -> Pair:
    return _make(folder, name, "-addext", "keyUsage=critical,keyCertSign")


def signed_by(signer: Pair, folder: Path, name: str, *, names: str) -> Pair:
    """A server's certificate for `names`, for example `IP:127.0.0.1`."""
    by = ["-CA", str(signer.certificate), "-CAkey", str(signer.key)]
    return _make(folder, name, *by, "-addext", f"subjectAltName={names}")


def _make(folder: Path, name: str, *options: str) -> Pair:
    made = Pair(certificate=folder / f"{name}.pem", key=folder / f"{name}.key")
    kind = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    files = ["-keyout", str(made.key), "-out", str(made.certificate)]
    assert PROGRAM is not None
    subprocess.run(
        [PROGRAM, "req", "-x509", *kind, "-subj", f"/CN={name}", "-days", "2", *files, *options],
        check=True,
        capture_output=True,
    )
    return made
