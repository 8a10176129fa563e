#!/bin/sh
# Installs Debian's (or Ubuntu's) QGIS if there is none, and what a window without a screen needs.
set -eu
has() { command -v "$1" >/dev/null; }
if { has qgis_process.bin || has qgis_process; } && has Xvfb &&
    /usr/bin/python3 -c 'import qgis.core, venv, ensurepip' 2>/dev/null; then exit 0; fi
if ! has apt-get; then
    echo "QGIS, its Python bindings, python3-venv or Xvfb is missing. Install QGIS 3.22 or newer and these, then call make again." >&2
    exit 1
fi
if [ "$(id -u)" -ne 0 ]; then run="sudo"; else run=""; fi
echo "Installing QGIS with apt-get (about 1.3 GB)."
$run apt-get update -q
$run env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends \
    qgis python3-qgis python3-venv xvfb xauth
