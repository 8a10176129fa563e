"""Files that appear whole or not at all, and what goes wrong with them in sentences."""

from __future__ import annotations

import errno
import os
import platform
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rasterio._err import CPLE_BaseError  # raised as it is by rasterio.shutil
from rasterio.errors import RasterioError

from backend.errors import DiskFullError, OutputError

PARTIAL = ".part"
"""In the name of a file that is not complete."""
SIDECARS = (".aux.xml", ".ovr", ".msk")
"""What GDAL keeps beside a raster, by what follows its name: some coordinate systems and palettes, and statistics."""
FULL, FULL_SIGNS = (errno.ENOSPC, errno.EDQUOT), ("No space left", "quota exceeded")


@contextmanager
def writing(path: Path, needed_bytes: int = 1 << 16) -> Iterator[None]:
    """Turns what GDAL and the system say on a full disk or a forbidden folder into our sentences.

    GDAL may not say why it failed: with less space than ``needed_bytes`` left, the disk was full.
    """
    try:
        yield
    except (RasterioError, CPLE_BaseError, OSError) as error:
        text = str(error)
        full = getattr(error, "errno", None) in FULL or any(sign in text for sign in FULL_SIGNS)
        missing = needed_bytes - _free_bytes(path)
        if full or missing > 0:
            short = f" (up to {missing / 1e6:.0f} MB are missing)" if missing > 1e6 else ""
            raise DiskFullError(
                f"The disk is full while writing {path.name}{short}. Free some space, or choose another place for the"
                " result."
            ) from error
        raise OutputError(f"{path} cannot be written: {text}") from error


@contextmanager
def complete_file(path: Path) -> Iterator[Path]:
    """A name of this process beside ``path`` to write to; the file gets its own name at the end, without an error."""
    partial = path.with_name(f"{path.stem}.{platform.node()}-{os.getpid()}{PARTIAL}{path.suffix}")
    try:
        yield partial
        with writing(path):
            take_the_place_of(path, partial)
    finally:
        partial.unlink(missing_ok=True)
        for end in SIDECARS:
            beside(partial, end).unlink(missing_ok=True)


def make_parent(path: Path) -> None:
    """The folder of a file that is to be written, unless it is there; `OutputError` with a sentence."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)


def write_text(path: Path, text: str) -> None:
    """A small file, complete under its name or not there; its folder is made where there is none."""
    make_parent(path)
    with complete_file(path) as partial, writing(path):
        partial.write_text(text, encoding="utf-8")
        to_disk(partial)


def take_the_place_of(path: Path, partial: Path) -> None:
    """Rename a finished file, and what GDAL keeps beside it; what was beside the earlier one goes."""
    partial.replace(path)
    for end in SIDECARS:
        with suppress(OSError):
            beside(path, end).unlink(missing_ok=True)
            if beside(partial, end).is_file():
                beside(partial, end).replace(beside(path, end))


def beside(path: Path, end: str) -> Path:
    """One of a file's `SIDECARS`."""
    return path.with_name(path.name + end)


def _free_bytes(path: Path) -> int:
    folder = path if path.is_dir() else path.parent
    return shutil.disk_usage(folder).free if folder.is_dir() else 1 << 62


def to_disk(path: Path) -> None:
    """Wait until a file's bytes are on the disk: after a power cut, a renamed file is a whole one."""
    with path.open("rb+") as stream:
        os.fsync(stream.fileno())
