#!/usr/bin/env bash
# The tests that matter with the lowest version of everything that pyproject.toml names: bash .ci/lowest.sh
# They get an environment of their own (6.3 GB, measured: most of it is what PyTorch's wheels bring for GPUs), which is
# removed at the end. Where the packages cannot be had, that is said, and nothing is tried: exit status 0.
set -euo pipefail
cd "$(dirname "$0")/.."
. .ci/packages.sh
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

room=$(df --output=avail -BG "$work" | tail -1 | tr -dc 0-9)
if [ "$room" -lt 12 ]; then
  echo "lowest: skipped, as $room GB are free and 12 are needed."
  exit 0
fi
python .ci/lowest.py >"$work/requirements.txt"
python -m venv "$work/venv"
install_or_skip lowest "$work/venv/bin/python" -r "$work/requirements.txt"
"$work/venv/bin/pip" freeze | grep -iE "^(torch|pytorch-lightning|torchmetrics|numpy|jsonargparse)==" | paste -sd " "
export PYTHONPATH="$PWD:$PWD/tests" OMP_NUM_THREADS=1
"$work/venv/bin/python" -m benchmarks.versions --results "$work" here "the lowest of pyproject.toml"
