"""What tells whether files are the same."""

from __future__ import annotations

import hashlib
from pathlib import Path


def sha256_of(*files: Path) -> str:
    """SHA-256 of the files' bytes, one file after the other, in hexadecimal."""
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as stream:
            hashlib.file_digest(stream, lambda: digest)
    return digest.hexdigest()
