#!/usr/bin/env bash
# venv.sh: the project with its development tools in .venv; does nothing while pyproject.toml and the Python are the same.
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

build_venv() {
  local id; id=$(cat "$REPO/pyproject.toml" "$REPO/hack/venv.sh" | sha256sum)
  if [ "$(cat "$VENV/.made-of" 2>/dev/null)" = "$id" ] && "$VENV/bin/python" -c '' 2>/dev/null; then return; fi
  need_python
  # over an old one: its packages are brought up to date; one whose Python has gone is made anew
  if ! "$VENV/bin/python" -c 'import pip' 2>/dev/null; then rm -rf "$VENV"; fi
  rm -f "$VENV/.made-of"
  step venv "installing the project and its tools into .venv with $PYTHON (20 to 60 s)" install
  echo "$id" >"$VENV/.made-of" # last: an interrupted install is repeated
}

install() {
  [ -d "$VENV" ] || "$PYTHON" -m venv "$VENV"
  "$VENV/bin/pip" install --disable-pip-version-check -e "${REPO}[dev]"
}

locked "venv-$(echo "$REPO" | cksum | cut -d' ' -f1)" build_venv
