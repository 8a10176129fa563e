#!/bin/sh
# The plugin's tests on the installed QGIS, and on the LTR of the distribution's backports beside it, in an overlay of /
# that leaves the system as it is. Root; Debian 12. QGIS_MATRIX names the overlay's folder, which is kept for the next time.
set -eu
cd "$(dirname "$0")/.."
TESTS="-m pytest -q tests/plugin tests/e2e tests/gui -m 'not slow'"
VARIABLES="QT_QPA_PLATFORM=offscreen PATH=/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 HOME=$HOME"
version() { $1 dpkg-query -W -f '${Version}' qgis 2>/dev/null | sed 's/+.*//'; }
run() { echo "QGIS $(version "$1")"; $1 sh -c "cd '$PWD' && env -i $VARIABLES .venv-qgis/bin/python $TESTS"; }

run ""

base=${QGIS_MATRIX:-/var/tmp/metaearth-matrix}
root=$base/root
share=$(dirname "$PWD")
mkdir -p "$base/upper" "$base/work" "$root"
mounted() { mountpoint -q "$1"; }
finish() {
  for place in "$share" /dev/pts /dev /proc ""; do
    if mounted "$root$place"; then umount -l "$root$place"; fi
  done
}
trap finish EXIT
mounted "$root" || mount -t overlay overlay -o "lowerdir=/,upperdir=$base/upper,workdir=$base/work" "$root"
mounted "$root/proc" || mount -t proc proc "$root/proc"
for place in /dev /dev/pts "$share"; do
  mounted "$root$place" || mount --bind "$place" "$root$place"
done
case $(version "chroot $root") in
3.22*)
  sed -n '1,/^$/p' /etc/apt/sources.list.d/debian.sources | sed 's/^Suites:.*/Suites: bookworm-backports/' \
    > "$root/etc/apt/sources.list.d/backports.sources"
  printf '#!/bin/sh\nexit 101\n' > "$root/usr/sbin/policy-rc.d"
  chmod +x "$root/usr/sbin/policy-rc.d"
  chroot "$root" env DEBIAN_FRONTEND=noninteractive sh -c 'apt-get -qq -o Acquire::Check-Valid-Until=false update &&
    apt-get -qq install -y --no-install-recommends -t bookworm-backports qgis python3-qgis qgis-providers >/dev/null'
  ;;
esac
run "chroot $root"
