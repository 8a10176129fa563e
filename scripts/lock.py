"""Writes ``resources/backend.lock``: every package of the backend but torch, pinned with hashes, for every system.

``--check`` instead shows that the lock can be installed on Windows, macOS and Linux; it installs nothing.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
LOCK = CHECKOUT / "resources" / "backend.lock"
PLATFORMS = ("x86_64-pc-windows-msvc", "aarch64-apple-darwin", "x86_64-unknown-linux-gnu")
PYTHONS = ("3.11", "3.12", "3.13")
MACOS = "15.0"
"""The oldest that rasterio's wheels are built for, with Python 3.12 and newer."""


def requirements() -> list[str]:
    """What pyproject.toml asks for, with the cluster's, without torch."""
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["cluster"]]
    return [line for line in wanted if not line.startswith("torch")]


def uv(*arguments: str, given: str | None = None) -> None:
    """Run uv, which lies beside this Python."""
    program = Path(sys.executable).with_name("uv")
    subprocess.run([str(program), "pip", *arguments], input=given, text=True, check=True, cwd=CHECKOUT,
                   env={**os.environ, "MACOSX_DEPLOYMENT_TARGET": MACOS})


def main(arguments: list[str]) -> int:
    """0 if the lock was written, or can be installed everywhere."""
    if "--check" not in arguments:
        uv("compile", "--quiet", "--universal", "--generate-hashes", "--no-header", "--python-version", PYTHONS[0],
           "--output-file", str(LOCK), "-", given="\n".join(requirements()))
        return 0
    for platform in PLATFORMS:
        for python in PYTHONS:
            with tempfile.TemporaryDirectory() as target:
                uv("install", "--quiet", "--dry-run", "--target", target, "--python-platform", platform,
                   "--python-version", python, "--only-binary", ":all:", "--require-hashes", "-r", str(LOCK))
            print(f"{LOCK.name} resolves for {platform}, Python {python}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
