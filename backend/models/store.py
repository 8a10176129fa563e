"""The user's own models: added from a folder or a hub after they were verified, and removed again."""

from __future__ import annotations

import re
import shutil
import tempfile
import urllib.error
import urllib.request
import zipfile
import zlib
from pathlib import Path

from backend.digest import sha256_of
from backend.errors import ModelError
from backend.models.bundle import CARD, CONFIG, WEIGHTS, Bundle, copy_bundle, open_bundle
from backend.protocol import data_home

HUB = "https://huggingface.co"
ADDRESS = re.compile(r"(?:hub:|https://huggingface\.co/)([\w.-]+/[\w.-]+)@([0-9a-f]{40})")
ID = re.compile(r"\w[\w.-]*")


def add_model(source: str, sha256: str = "") -> Bundle:
    """The bundle, now among the user's models, from a folder, a zip of one, or from ``hub:owner/name@COMMIT``.

    A hub's bundle must be pinned: COMMIT has 40 hexadecimal digits, ``sha256`` that of its weights.
    `ModelError` if it cannot be had, is damaged, or is there already.
    """
    pinned = ADDRESS.fullmatch(source)
    if not pinned:
        if re.match(r"hub:|https?:", source):
            raise ModelError(
                f"{source} is not pinned: write hub:owner/name@COMMIT with the commit's 40 hexadecimal digits."
            )
        if source.lower().endswith(".zip"):
            with tempfile.TemporaryDirectory() as folder:
                _unpack(Path(source), Path(folder))
                return _install(Path(folder), sha256)
        return _install(Path(source), sha256)
    if not re.fullmatch(r"[0-9a-f]{64}", sha256):
        raise ModelError("A model from a hub needs the SHA-256 of its model.safetensors, 64 hexadecimal digits.")
    with tempfile.TemporaryDirectory() as folder:
        for name in (CONFIG, CARD, WEIGHTS):
            _download(f"{HUB}/{pinned[1]}/resolve/{pinned[2]}/{name}", Path(folder) / name)
        return _install(Path(folder), sha256)


def remove_model(id_: str) -> None:
    """Delete one of the user's models; the embedded ones stay."""
    folder = data_home() / "models" / id_
    if not ID.fullmatch(id_) or not (folder / CONFIG).is_file():
        raise ModelError(f"{id_} is none of your own models, so it cannot be removed.")
    shutil.rmtree(folder)


def _install(folder: Path, sha256: str) -> Bundle:
    """Verify a bundle by loading it, then copy it."""
    bundle = open_bundle(folder)
    if not ID.fullmatch(bundle.config.id):
        raise ModelError(f"The model's id {bundle.config.id!r} has characters that a folder cannot have.")
    if sha256 and sha256_of(bundle.weights) != sha256:
        raise ModelError(f"The weights of {bundle.config.id} are not those that were asked for: their SHA-256 differs.")
    bundle.load()
    target = data_home() / "models" / bundle.config.id
    if target.exists():
        raise ModelError(f"There is a model {bundle.config.id} already; remove it first.")
    partial = target.with_name(f".{target.name}.part")
    shutil.rmtree(partial, ignore_errors=True)
    copy_bundle(folder, partial)
    partial.rename(target)
    return open_bundle(target)


def _unpack(archive: Path, folder: Path) -> None:
    """A bundle's files out of a zip, and nothing else; the folder that they lie in there does not matter."""
    try:
        with zipfile.ZipFile(archive) as opened:
            for member in opened.infolist():
                name = member.filename.rsplit("/", 1)[-1]
                if name in (CONFIG, CARD, WEIGHTS):
                    with opened.open(member) as stream, (folder / name).open("wb") as out:
                        shutil.copyfileobj(stream, out)
    except (OSError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:  # RuntimeError: it wants a password
        raise ModelError(f"{archive} cannot be read as a zip of a model: {error}.") from error


def _download(url: str, path: Path) -> None:
    try:
        with urllib.request.urlopen(url, timeout=60) as stream, path.open("wb") as out:  # nosec B310 - https, pinned
            shutil.copyfileobj(stream, out)
    except urllib.error.HTTPError as error:
        if path.name != CARD:
            raise ModelError(f"{url} cannot be downloaded: {error}.") from error
    except OSError as error:
        raise ModelError(f"{url} cannot be downloaded: {error}.") from error
