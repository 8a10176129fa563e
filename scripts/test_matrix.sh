#!/bin/sh
# The plugin's tests on the installed QGIS, on the LTR of Debian 12's backports in an overlay of /, and on that of
# Debian 13's backports in a chroot; the system stays as it is. Root; Debian 12. QGIS_MATRIX names the folder of both,
# which is kept for the next time. ONLY=3.22, 3.40 or 3.44: one of them.
set -eu
cd "$(dirname "$0")/.."
TESTS=${TESTS:-"-m pytest -q tests/plugin tests/e2e tests/gui -m 'not slow'"}
VARIABLES="QT_QPA_PLATFORM=offscreen PATH=/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 HOME=$HOME"
base=${QGIS_MATRIX:-/var/tmp/metaearth-matrix}
share=$(dirname "$PWD")
pythons=$(sed -n 's/^home = //p' .venv/pyvenv.cfg)/..
INSTALL='apt-get -qq -o Acquire::Check-Valid-Until=false update && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends'
version() { $1 dpkg-query -W -f '${Version}' qgis 2>/dev/null | sed 's/+.*//' || true; }
run() { echo "QGIS $(version "$1")"; $1 sh -c "cd '$PWD' && env -i $VARIABLES $2 $TESTS"; }
wanted() { [ "${ONLY:-$1}" = "$1" ]; }
mounted() { mountpoint -q "$1"; }
enter() {  # the mounts of a root
  mounted "$1/proc" || mount -t proc proc "$1/proc"
  for place in /dev /dev/pts "$share" "$(readlink -f "$pythons")"; do
    mkdir -p "$1$place"
    mounted "$1$place" || mount --bind "$place" "$1$place"
  done
  printf '#!/bin/sh\nexit 101\n' > "$1/usr/sbin/policy-rc.d"
  chmod +x "$1/usr/sbin/policy-rc.d"
}
leave() {
  for place in "$(readlink -f "$pythons")" "$share" /dev/pts /dev /proc ""; do
    if mounted "$1$place"; then umount -l "$1$place"; fi
  done
}

if wanted 3.22; then run "" .venv-qgis/bin/python; fi

if wanted 3.40; then
  root=$base/root
  trap 'leave "$root"' EXIT
  mkdir -p "$base/upper" "$base/work" "$root"
  mounted "$root" || mount -t overlay overlay -o "lowerdir=/,upperdir=$base/upper,workdir=$base/work" "$root"
  enter "$root"
  case $(version "chroot $root") in
  3.22*)
    sed -n '1,/^$/p' /etc/apt/sources.list.d/debian.sources | sed 's/^Suites:.*/Suites: bookworm-backports/' \
      > "$root/etc/apt/sources.list.d/backports.sources"
    chroot "$root" sh -c "$INSTALL -t bookworm-backports qgis python3-qgis qgis-providers >/dev/null"
    ;;
  esac
  run "chroot $root" .venv-qgis/bin/python
  leave "$root"
fi

if wanted 3.44; then
  root=$base/trixie
  trap 'leave "$root"' EXIT
  mirror=$(sed -n 's/^URIs: *//p' /etc/apt/sources.list.d/debian.sources | head -n 1)
  if [ ! -e "$root/.made" ]; then
    command -v debootstrap >/dev/null || sh -c "$INSTALL debootstrap >/dev/null"
    rm -rf --one-file-system "$root"
    debootstrap --variant=minbase --include=ca-certificates trixie "$root" "$mirror" >/dev/null
    cp /etc/apt/apt.conf.d/99* "$root/etc/apt/apt.conf.d/" 2>/dev/null || true
    echo "deb $mirror trixie-backports main" > "$root/etc/apt/sources.list.d/backports.list"
    touch "$root/.made"
  fi
  enter "$root"
  if [ -z "$(version "chroot $root")" ]; then
    chroot "$root" sh -c "$INSTALL -t trixie-backports qgis python3-qgis qgis-providers \
      xvfb xauth fonts-open-sans gdal-bin >/dev/null"
    .venv/bin/python -m pip install --quiet --target "$root/opt/pytest" pytest==9.2.0 pytest-qgis==5.0.2
  fi
  run "chroot $root" "PYTHONPATH=/opt/pytest python3"
  leave "$root"
fi
