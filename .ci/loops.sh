#!/usr/bin/env bash
# Tests of the callback for transformers.Trainer, and of the pages that show transformers and timm: packages that
# nothing else needs. bash .ci/loops.sh
# They are put beside those of the environment that this runs in (200 MB, measured), and removed at the end. Where
# they cannot be had, that is said, and nothing is tried: exit status 0.
set -euo pipefail
cd "$(dirname "$0")/.."
. .ci/packages.sh
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

python -m venv "$work/venv"
where='import sysconfig; print(sysconfig.get_path("purelib"))'
python -c "$where" >"$("$work/venv/bin/python" -c "$where")/beside.pth"
wanted=$(python -c '
import tomllib
print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["transformers"])')
# shellcheck disable=SC2086 - a word for each requirement
install_or_skip loops "$work/venv/bin/python" $wanted timm
export PYTHONPATH="$PWD" OMP_NUM_THREADS=1
"$work/venv/bin/python" -m pytest -q -n 2 --dist worksteal tests/test_transformers.py
"$work/venv/bin/python" -m pytest -q tests/test_docs.py -k "test_examples_run and (transformers or pretrained_nets)"
