"""Builds ``build/metaearth.zip``, what QGIS's plugin repository takes; ``--scan`` checks it as the repository does.

Embedded models whose weights are too large for it get a zip of their own, ``build/<id>.zip``, which the plugin's
options install (Settings > Options > MetaEarth).

The zip holds one folder ``metaearth`` with the plugin, the backend and the resources: files that git knows or would
add, less what `.gitattributes` marks export-ignore. Standard library only; the scan needs bandit, detect-secrets and
flake8 in the Python that runs this.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
ARCHIVE = CHECKOUT / "build" / "metaearth.zip"
MODELS = CHECKOUT / "resources" / "models"
PACKAGE = "metaearth"
CONTENTS = ("metadata.txt", "__init__.py", "LICENSE", "README.md", "CHANGELOG.md", "plugin", "backend", "resources")
REQUIRED = {"metadata.txt", "__init__.py", "LICENSE"}
FORBIDDEN = {".pyc", ".sh", ".bat", ".ps1", ".exe", ".so", ".dll", ".dylib"}
MAX_BYTES = 25_000_000
# The repository's upload form refuses archives whose entries carry no date; a fixed one makes equal zips equal.
DATE = (2026, 1, 1, 0, 0, 0)


class PackageError(Exception):
    """The zip cannot be built as the repository wants it."""


def git(*arguments: str, stdin: str = "") -> str:
    """What git prints in the checkout."""
    done = subprocess.run(["git", "-C", str(CHECKOUT), *arguments], input=stdin, capture_output=True, text=True,
                          check=True)
    return done.stdout


def packaged_files() -> list[str]:
    """Paths of the zip's files relative to the checkout, sorted."""
    listed = git("ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *CONTENTS).split("\0")
    present = sorted({path for path in listed if path and (CHECKOUT / path).is_file()})
    ignored = export_ignored(present)
    return [path for path in present if path not in ignored and not path.endswith(".pyc")]


def export_ignored(paths: Iterable[str]) -> set[str]:
    """Those of ``paths`` that `.gitattributes` keeps out of archives, themselves or by a folder above them."""
    folders = {str(parent) for path in paths for parent in Path(path).parents if str(parent) != "."}
    asked = "\0".join([*paths, *folders]) + "\0"
    fields = git("check-attr", "-z", "--stdin", "export-ignore", stdin=asked).split("\0")
    marked = {fields[i] for i in range(0, len(fields) - 2, 3) if fields[i + 2] == "set"}
    return {path for path in paths if path in marked or any(str(p) in marked for p in Path(path).parents)}


def check(paths: list[str]) -> None:
    """`PackageError` if the repository would refuse these files."""
    missing = REQUIRED - set(paths)
    if missing:
        raise PackageError(f"The zip would lack {', '.join(sorted(missing))}.")
    forbidden = [path for path in paths if Path(path).suffix.lower() in FORBIDDEN]
    if forbidden:
        raise PackageError(f"The plugin repository refuses {', '.join(forbidden)}.")


def build() -> Path:
    """The zip, written; `PackageError` if it would be refused."""
    paths = packaged_files()
    check(paths)
    ARCHIVE.parent.mkdir(exist_ok=True)
    with zipfile.ZipFile(ARCHIVE, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for path in paths:
            entry = zipfile.ZipInfo(f"{PACKAGE}/{path}", DATE)
            entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o100644 << 16
            archive.writestr(entry, (CHECKOUT / path).read_bytes())
    size = ARCHIVE.stat().st_size
    if size > MAX_BYTES:
        raise PackageError(f"{ARCHIVE} has {size:,} bytes; the plugin repository takes {MAX_BYTES:,}.")
    print(f"{ARCHIVE}: {len(paths)} files, {size:,} bytes")
    return ARCHIVE


def build_models() -> list[Path]:
    """A zip of every embedded model whose weights stay out of the plugin's, if they are there."""
    written = []
    for weights in sorted(MODELS.glob("*/model.safetensors")):
        path = str(weights.relative_to(CHECKOUT))
        if path not in export_ignored([path]):
            continue
        target = ARCHIVE.with_name(f"{weights.parent.name}.zip")
        with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
            for file in sorted(weights.parent.iterdir()):
                entry = zipfile.ZipInfo(f"{weights.parent.name}/{file.name}", DATE)
                entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o100644 << 16
                archive.writestr(entry, file.read_bytes())
        print(f"{target}: {target.stat().st_size:,} bytes")
        written.append(target)
    return written


def scan(archive: Path) -> int:
    """The number of scanners that found something in the unpacked zip; they run without the project's settings."""
    with tempfile.TemporaryDirectory() as folder:
        with zipfile.ZipFile(archive) as opened:
            opened.extractall(folder)
        found = {
            "bandit": run_tool(folder, "bandit", "-r", "-q", "-f", "txt", PACKAGE),
            "detect-secrets": secrets(folder),
            "flake8": run_tool(folder, "flake8", "--isolated", "--max-line-length=120", "--extend-ignore=QGS",
                               PACKAGE),
        }
    for name, text in found.items():
        print(f"{name}: {text or 'no findings'}")
    return sum(bool(text) for text in found.values())


def run_tool(folder: str, module: str, *arguments: str) -> str:
    """What a tool says if it finds something, else nothing."""
    done = subprocess.run([sys.executable, "-m", module, *arguments], cwd=folder, capture_output=True, text=True)
    return "" if done.returncode == 0 else done.stdout + done.stderr


def secrets(folder: str) -> str:
    """What detect-secrets finds, a line each."""
    done = subprocess.run([sys.executable, "-m", "detect_secrets", "scan", "--all-files", PACKAGE], cwd=folder,
                          capture_output=True, text=True)
    if done.returncode:
        return done.stdout + done.stderr
    results = json.loads(done.stdout)["results"]
    return "".join(f"\n{path}:{hit['line_number']}: {hit['type']}" for path in results for hit in results[path])


def main(arguments: list[str] | None = None) -> int:
    """0 if the zip was built, and with ``--scan`` if no scanner found anything."""
    parser = argparse.ArgumentParser(description="Builds build/metaearth.zip.")
    parser.add_argument("--scan", action="store_true", help="check the zip with the plugin repository's tools")
    options = parser.parse_args(arguments)
    try:
        archive = build()
        build_models()
    except PackageError as error:
        print(error, file=sys.stderr)
        return 1
    if "example.org" in (CHECKOUT / "metadata.txt").read_text(encoding="utf-8"):
        print("Before an upload set author, email, tracker and repository in metadata.txt.", file=sys.stderr)
    return 1 if options.scan and scan(archive) else 0


if __name__ == "__main__":
    sys.exit(main())
