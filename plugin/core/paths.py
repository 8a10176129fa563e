"""Names of files and folders as another process understands them."""

from __future__ import annotations

import os

VIRTUAL = "/vsi"


def absolute(path: str) -> str:
    """``path`` from the root: the backend's working directory is another. Nothing and GDAL's own paths stay."""
    return os.path.abspath(path) if path and not path.startswith(VIRTUAL) else path
