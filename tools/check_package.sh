#!/bin/sh
# The package as people get it: an sdist, a wheel built from that sdist, and the wheel in a fresh environment, where the demo runs outside
# the repository and its printed command writes a repaired model. $1: an environment with the dependencies and setuptools; it lends the
# fresh one its packages, so that nothing is fetched. $2: a folder that gets both, if given.
set -eu
python=$(cd "$(dirname "$1")" && pwd)/$(basename "$1")/bin/python
root=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
unset PYTHONPATH

cd "$root"
# A tag is the version; without one, or without git, the version in pyproject.toml is all there is.
tag=$(git describe --tags --exact-match 2>/dev/null || true)
version=$(sed -n 's/^version = "\(.*\)"$/\1/p' pyproject.toml)
case $tag in ''|"v$version") ;; *) echo "package: the tag $tag is not v$version of pyproject.toml" >&2; exit 1 ;; esac
git ls-files -z | xargs -0 cp --parents -P -t "$work" 2>/dev/null || { echo "package: git or GNU cp is missing" >&2; exit 2; }
cd "$work"
"$python" -W ignore -c 'from setuptools import build_meta as b; b.build_sdist("dist")' >build.log 2>&1 || { cat build.log >&2; exit 1; }
"$python" -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist dist/*.tar.gz
"$python" -m zipfile -l dist/*.whl | grep -q 'kernels/cuda/reduce.cu' || { echo "package: the wheel lacks the CUDA sources" >&2; exit 1; }
"$python" -m venv --without-pip fresh
site=$(fresh/bin/python -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')
"$python" -m pip --python fresh/bin/python install --quiet --no-deps --no-index dist/*.whl
# After the wheel's own: the lending environment may have the repository itself installed.
"$python" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])' >"$site/lent.pth"
[ -z "${2-}" ] || cp dist/* "$2"
mkdir outside
cd outside
where=$(../fresh/bin/python -c 'import naa_fast; print(naa_fast.__file__)')
case $where in "$site"/*) ;; *) echo "package: the demo would run $where and not the wheel's" >&2; exit 1 ;; esac
../fresh/bin/naa-fast -V
../fresh/bin/naa-fast demo >demo.log || { cat demo.log >&2; exit 1; }
../fresh/bin/naa-fast report naa-demo/backdoored --format sarif,junit,markdown,intoto >/dev/null && exit 1 # a fail is exit code 1
ls naa-demo/backdoored/report.html naa-demo/backdoored/report.sarif naa-demo/backdoored/junit.xml >/dev/null
PATH="$work/fresh/bin:$PATH" sh -c "$(sed -n 's/^weights to deploy: //p' demo.log)"
ls naa-repaired/model.safetensors >/dev/null
echo "package: $(cd ../dist && ls ./*.whl ./*.tar.gz | tr '\n' ' ')built, installed and tried outside the repository"
