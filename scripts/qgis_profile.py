"""Puts the plugin before a QGIS: a private profile for demo and tests, or a link in the user's own profile.

``python3 scripts/qgis_profile.py DIR`` makes ``DIR/plugins/metaearth`` (a link to this checkout) and a profile in
``DIR/config`` that has the plugin enabled, and prints the variables that make QGIS use both. ``--user`` links the
checkout into the user's QGIS profiles instead. Standard library only.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
PLUGIN = "metaearth"
SETTINGS = "[PythonPlugins]\nmetaearth=true\n\n[qgis]\ncheckVersion=false\n"


def link_plugin(plugins: Path) -> Path:
    """The link ``plugins/metaearth`` to this checkout, made or mended; FileExistsError if a real folder is there."""
    link = plugins / PLUGIN
    plugins.mkdir(parents=True, exist_ok=True)
    if link.is_symlink():
        link.unlink()
    os.symlink(CHECKOUT, link, target_is_directory=True)
    return link


def private_profile(folder: Path) -> dict[str, str]:
    """The variables that make a QGIS use a profile in ``folder``, written anew, with the plugin enabled."""
    folder = folder.resolve()
    link_plugin(folder / "plugins")
    settings = folder / "config" / "profiles" / "default" / "QGIS" / "QGIS3.ini"
    settings.parent.mkdir(parents=True, exist_ok=True)
    settings.write_text(SETTINGS, encoding="utf-8")
    return {"QGIS_CUSTOM_CONFIG_PATH": str(folder / "config"), "QGIS_PLUGINPATH": str(folder / "plugins")}


def user_plugin_folders(home: Path, platform: str) -> list[Path]:
    """The plugin folders of the default profiles of every QGIS generation that has one; QGIS 3's if none has."""
    roots = {"win32": home / "AppData" / "Roaming" / "QGIS", "darwin": home / "Library/Application Support/QGIS"}
    root = roots.get(platform, home / ".local" / "share" / "QGIS")
    profiles = [root / generation / "profiles" / "default" for generation in ("QGIS3", "QGIS4")]
    return [profile / "python" / "plugins" for profile in profiles if profile.is_dir()] or [
        profiles[0] / "python" / "plugins"]


def main(arguments: list[str] | None = None) -> int:
    """0 when the links are made; says what was made."""
    parser = argparse.ArgumentParser(description="Puts the plugin before a QGIS.")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("folder", nargs="?", type=Path, metavar="DIR", help="make a private profile here")
    where.add_argument("--user", action="store_true", help="link the plugin into your QGIS profiles")
    options = parser.parse_args(arguments)
    try:
        if options.user:
            for plugins in user_plugin_folders(Path.home(), sys.platform):
                print(f"{link_plugin(plugins)} -> {CHECKOUT}")
            print("Enable MetaEarth in QGIS: Plugins > Manage and Install Plugins > Installed.")
        else:
            for name, value in private_profile(options.folder).items():
                print(f"export {name}={shlex.quote(value)}")
    except OSError as error:
        print(f"The plugin cannot be linked: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
