#!/bin/sh
# docker run IMAGE [lab | test | book | COMMAND of ssd-annotated | any other program] [ARGUMENTS]
set -eu
# It may start in another folder (--workdir), and as a user without a home (--user).
here=$(cd "$(dirname "$0")/.." && pwd)
[ -w "${HOME:-/}" ] || export HOME=/tmp
# The image is the environment: its own Python replaces the .venv that make would create.
bin=$(dirname "$(command -v python)")
word="${1:-lab}"
[ $# -eq 0 ] || shift
case "$word" in
  lab)
    touch "${TMPDIR:-/tmp}/serving" # from now on the health check asks the server
    exec jupyter lab --ip=0.0.0.0 --port=8888 --no-browser --notebook-dir="$here/book" "$@" ;;
  test | book | test-gpu)
    exec make -C "$here" BIN="$bin" "$word" "$@" ;;
  train | evaluate | detect | check | export | graffiti | download)
    exec ssd-annotated "$word" "$@" ;;
  *)
    exec "$word" "$@" ;;
esac
