"""The backend's own code as one archive that travels to a cluster's workers."""

from __future__ import annotations

import hashlib
import io
import zipfile
from pathlib import Path

MARK = "backend/packed.py"
"""A module that only the archive has; it holds the hash of the rest."""


def packed_code() -> bytes:
    """The backend's modules as a zip archive, the same bytes for the same code."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in _modules():
            archive.writestr(zipfile.ZipInfo(name), content)
        archive.writestr(zipfile.ZipInfo(MARK), f'SHA256 = "{_sha256()}"\n')
    return stream.getvalue()


def code_sha256() -> str:
    """Hash of the code that this process runs: from the archive it came in, or of the files themselves."""
    try:
        from backend.packed import SHA256  # type: ignore[import-not-found]
    except ImportError:
        return _sha256()
    return str(SHA256)


def _modules() -> list[tuple[str, bytes]]:
    root = Path(__file__).resolve().parents[2]
    found = sorted((root / "backend").rglob("*.py"))
    return [(path.relative_to(root).as_posix(), path.read_bytes()) for path in found]


def _sha256() -> str:
    digest = hashlib.sha256()
    for name, content in _modules():
        digest.update(f"{name} {len(content)} ".encode())
        digest.update(content)
    return digest.hexdigest()
