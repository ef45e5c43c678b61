#!/bin/sh
# Make the virtual environment $2 with the Python $1 and install the pinned development set-up into it.
# What is missing is said in plain words; a half-made environment is not left behind as a good one.
set -eu
python=$1
venv=$2

fail() {
    printf 'set-up: %s\n' "$@" >&2
    exit 2
}

command -v "$python" >/dev/null 2>&1 || fail "no '$python' on the PATH" "install Python 3.11, 3.12 or 3.13, or name one: make PYTHON=/path/to/python"

"$python" - <<'CHECK' || fail "this Python is $("$python" -V 2>&1)" "expected 3.11, 3.12 or 3.13: make PYTHON=python3.12"
import sys
sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
CHECK

"$python" -c 'import venv, ensurepip' 2>/dev/null || fail "this Python cannot make virtual environments" \
    "on Debian or Ubuntu: apt-get install python3-venv"

# The environment takes about 1.5 GB with the CPU build of torch. Where it goes may not exist yet: ask the nearest folder that does.
place=$(dirname "$venv")
while [ ! -d "$place" ]; do place=$(dirname "$place"); done
free_mb=$(df -Pm "$place" | awk 'NR == 2 {print $4}')
[ "$free_mb" -ge 2500 ] || fail "only $free_mb MB are free in $place" "about 2500 MB are needed: free some, or name another place: make VENV=/path"

rm -f "$venv/installed"
"$python" -m venv "$venv" || fail "could not make the virtual environment '$venv'"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --upgrade pip setuptools \
    || fail "pip could not reach a package index" "check the network, or point pip at a mirror (PIP_INDEX_URL)"

# torch first and by exact version, so that nothing later picks another build. PyPI's own Linux build brings several GB of CUDA
# packages; an index of CPU builds, named by PIP_INDEX_URL or PIP_EXTRA_INDEX_URL, avoids them.
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check -c constraints.txt torch \
    || fail "torch could not be installed" "see the message above; constraints.txt names the version"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]' \
    || fail "the packages could not be installed" "see the message above"
touch "$venv/installed"
