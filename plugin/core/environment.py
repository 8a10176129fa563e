"""The backend's Python: where it is, and what to do if there is none.

Standard library only, and nothing above the package ``plugin``: ``python3 -m plugin.core.environment`` runs from a
checkout without QGIS. ``root`` is the folder that holds the package ``backend``; ``home`` is ``protocol.data_home()``.
"""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, List, Mapping, Optional, Tuple

from .translate import tr

SETTING = "python.txt"
READY = "metaearth-ready.json"
"""In an environment of ours that is complete: what its smoke test told."""
VARIABLE = "METAEARTH_PYTHON"
REMOVED_VARIABLES = ("PYTHONHOME", "PYTHONPATH", "PYTHONEXECUTABLE", "PYTHONUSERBASE", "VIRTUAL_ENV",
                     "LD_LIBRARY_PATH", "LD_PRELOAD")
REMOVED_PREFIXES = ("QGIS_", "PROJ_", "GDAL_", "DYLD_", "QT_")


def missing() -> str:
    """What to do where there is no environment."""
    return tr(
        "MetaEarth's backend has no Python environment yet. Choose Raster > MetaEarth > Set up the backend, or run "
        "`python3 -m plugin.core.environment --set-up` in the plugin's folder (in a checkout: `make setup`).")


@dataclass(frozen=True)
class BackendPython:
    """The interpreter to start, or None and a sentence that says what to do."""

    path: Optional[Path]
    sentence: str


def backend_python(root: Path, home: Path) -> BackendPython:
    """The first interpreter found: METAEARTH_PYTHON, the saved choice, the environment in ``home``, a checkout's."""
    for path, origin, chosen in _candidates(root, home):
        if is_interpreter(path):
            return BackendPython(path, f"{path} ({origin})")
        if chosen:
            return BackendPython(None, tr("{}, named by {}, is not a Python that can be started.").format(path, origin))
    return BackendPython(None, missing())


def is_interpreter(path: Path) -> bool:
    """Whether ``path`` is a file that can be started."""
    return path.is_file() and os.access(path, os.X_OK)


def save_choice(path: Path, home: Path) -> Path:
    """The setting file, written, that makes ``path`` the backend's interpreter; ValueError if it is none."""
    if not is_interpreter(path):
        raise ValueError(tr("{} is not a Python that can be started.").format(path))
    home.mkdir(parents=True, exist_ok=True)
    setting = home / SETTING
    setting.write_text(f"{Path(os.path.abspath(path))}\n", encoding="utf-8")
    return setting


def interpreter_in(environment: Path) -> Path:
    """Where a virtual environment keeps its interpreter on this system."""
    return environment / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")


def _candidates(root: Path, home: Path) -> List[Tuple[Path, str, bool]]:
    """Path, origin and whether the user chose it by name, in order of precedence."""
    named = [(os.environ.get(VARIABLE, ""), VARIABLE), (_saved_choice(home), str(home / SETTING))]
    chosen = [(Path(text), origin, True) for text, origin in named if text]
    own = (home / "env", tr("MetaEarth's own environment"))
    checkout = (root / ".venv", tr("the checkout's environment"))
    found = [own, checkout] if (home / "env" / READY).is_file() else [checkout]
    return chosen + [(interpreter_in(folder), origin, False) for folder, origin in found]


def _saved_choice(home: Path) -> str:
    """The path in the setting file; empty if there is none."""
    setting = home / SETTING
    return setting.read_text(encoding="utf-8").strip() if setting.is_file() else ""


def child_environment(parent: Mapping[str, str], root: Path) -> Dict[str, str]:
    """The variables of ``parent`` without those of QGIS and its Python, and with ``root`` on the module path."""
    kept = without_qgis({name: value for name, value in parent.items() if not name.upper().startswith("PIP_")})
    return {**kept, "PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1", "PYTHONUTF8": "1"}


def without_qgis(parent: Mapping[str, str]) -> Dict[str, str]:
    """The variables of ``parent`` without those that lead a program to QGIS's libraries."""
    kept = {name: value for name, value in parent.items()
            if name.upper() not in REMOVED_VARIABLES and not name.upper().startswith(REMOVED_PREFIXES)}
    for name in [name for name in kept if name.upper() == "PATH"]:
        kept[name] = os.pathsep.join(part for part in kept[name].split(os.pathsep) if not _belongs_to_qgis(part))
    return kept


def _belongs_to_qgis(folder: str) -> bool:
    """Whether a folder of PATH is part of a QGIS installation."""
    return any(word in folder.lower() for word in ("qgis", "osgeo4w"))


def main(arguments: Optional[List[str]] = None) -> int:
    """0 if a backend Python was found, saved, made or removed, else 1; says which."""
    # Only this command needs the other side of the door, and it runs where `backend` is a top-level package.
    from backend.protocol import data_home

    from .installation import Setup, SetupError, remove

    parser = argparse.ArgumentParser(prog="plugin.core.environment",
                                     description="Finds, makes or removes the Python environment of the backend.")
    parser.add_argument("--set-up", action="store_true", help="make the environment, or go on with a broken try")
    parser.add_argument("--torch", metavar="BUILD", help="cpu, cu126 or cu130 instead of what suits the GPU")
    parser.add_argument("--wheels", metavar="FOLDER", type=Path, help="a folder of wheels instead of the network")
    parser.add_argument("--use", metavar="PATH", type=Path, help="save this Python as the backend's")
    parser.add_argument("--remove", action="store_true", help="delete the environment and its downloads")
    options = parser.parse_args(arguments)
    root, home = Path(__file__).resolve().parents[2], data_home()
    try:
        if options.remove:
            remove(home)
        if options.use:
            save_choice(options.use, home)
        if options.set_up:
            wheels = options.wheels.resolve() if options.wheels else None
            Setup(root, home, wheels, lambda line: print(line, flush=True)).run(options.torch)
        found = backend_python(root, home)
    except (OSError, ValueError, SetupError) as error:
        found = BackendPython(None, str(error))
    sys.stdout.write(found.sentence + "\n")
    return 0 if found.path or options.remove else 1


if __name__ == "__main__":
    sys.exit(main())
