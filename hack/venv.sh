#!/usr/bin/env bash
# venv.sh [demo]: the project with its development tools in .venv, or with as much as `make try` needs; does nothing while it is
# there, and pyproject.toml and the Python are the same.
. "$(dirname "$0")/lib.sh"

VENV=$REPO/.venv

find_python() { # the newest that the project supports, and that can make environments
  local python
  for python in python3.13 python3.12 python3.11 python3; do
    if "$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then command -v "$python"; return; fi
  done
  return 1
}

need_python() { # sets PYTHON
  if PYTHON=$(find_python); then return; fi
  if is_root && command -v apt-get >/dev/null; then locked apt apt_install python3 python3-venv; fi
  PYTHON=$(find_python) || lack "Python 3.11 or newer with its venv module is missing: install python3 and python3-venv."
}

EXTRA=${1:-dev} MARKS=(dev) TAKES="20 to 60 s"
if [ "$EXTRA" = demo ]; then MARKS+=(demo) TAKES="10 to 30 s"; fi # who has all has this, too

is_made_of() { # is_made_of ID
  local mark
  "$VENV/bin/python" -c '' 2>/dev/null || return 1
  for mark in "${MARKS[@]}"; do if [ "$(cat "$VENV/.made-of-$mark" 2>/dev/null)" = "$1" ]; then return; fi; done
  return 1
}

build_venv() {
  local id; id=$(cat "$REPO/pyproject.toml" "$REPO/hack/venv.sh" | sha256sum)
  if is_made_of "$id"; then return; fi
  need_python
  # over an old one: its packages are brought up to date; one whose Python has gone is made anew
  if ! "$VENV/bin/python" -c 'import pip' 2>/dev/null; then rm -rf "$VENV"; fi
  rm -f "$VENV"/.made-of*
  step venv "installing the project [$EXTRA] into .venv with $PYTHON ($TAKES)" install
  echo "$id" >"$VENV/.made-of-$EXTRA" # last: an interrupted install is repeated
}

install() {
  [ -d "$VENV" ] || "$PYTHON" -m venv "$VENV"
  "$VENV/bin/pip" install --disable-pip-version-check -e "${REPO}[$EXTRA]"
}

locked "venv-$(echo "$REPO" | cksum | cut -d' ' -f1)" build_venv
