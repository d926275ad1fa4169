#!/usr/bin/env bash
# Run a command on a machine unlike this one: one core, no network, nothing to be written in the home
# folder, a Turkish locale (there the small letter of I is not i) and a time zone 45 minutes off. ::
#
#     unshare --map-root-user --net --mount tests/long/elsewhere.sh COMMAND
set -euo pipefail
export LC_ALL=tr_TR.UTF-8 TZ=Pacific/Chatham
locale --all-locales | grep --quiet --ignore-case 'tr_TR.utf-\?8' || {
  echo "the locale tr_TR.UTF-8 is missing here: install it, for example with localedef" >&2
  exit 1
}
ip link set lo up # kernels of notebooks talk to themselves
place=$(mktemp --directory)
mkdir "$place"/{home,jupyter,matplotlib}
mount --bind "$place/home" "$place/home"
trap 'umount "$place/home" && rm --recursive "$place"' EXIT
mount --options remount,bind,ro "$place/home"
export HOME=$place/home
# What Jupyter and Matplotlib themselves ask for where they may not write at home.
export JUPYTER_RUNTIME_DIR=$place/jupyter MPLCONFIGDIR=$place/matplotlib
taskset --cpu-list 0 "$@"
