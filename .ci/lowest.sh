#!/usr/bin/env bash
# The tests that matter with the lowest version of everything that pyproject.toml names: bash .ci/lowest.sh
# They get an environment of their own (6.3 GB, measured: most of it is what PyTorch's wheels bring for GPUs), which is
# removed at the end. Where the packages cannot be had, that is said, and nothing is tried: exit status 0.
set -euo pipefail
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

room=$(df --output=avail -BG "$work" | tail -1 | tr -dc 0-9)
if [ "$room" -lt 12 ]; then
  echo "lowest: skipped, as $room GB are free and 12 are needed."
  exit 0
fi
python .ci/lowest.py >"$work/requirements.txt"
python -m venv "$work/venv"
if ! "$work/venv/bin/pip" install --quiet --no-cache-dir -r "$work/requirements.txt" >"$work/pip.log" 2>&1; then
  if grep -qE "from versions: none|Connection|Temporary failure|timed out" "$work/pip.log"; then
    echo "lowest: skipped, as a package cannot be had: $(grep -m 1 ERROR "$work/pip.log")"
    exit 0
  fi
  tail -20 "$work/pip.log" # such as versions that exclude each other: pyproject.toml is wrong
  exit 1
fi
"$work/venv/bin/pip" freeze | grep -iE "^(torch|pytorch-lightning|torchmetrics|numpy|jsonargparse)==" | paste -sd " "
export PYTHONPATH="$PWD:$PWD/tests" OMP_NUM_THREADS=1
"$work/venv/bin/python" -m benchmarks.versions --results "$work" here "the lowest of pyproject.toml"
