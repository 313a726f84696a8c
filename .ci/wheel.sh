#!/usr/bin/env bash
# What a user has who installs the wheel: no checkout, an empty folder. Run in an environment that has the rest.
# It is built here from the source distribution, and both are checked as the package index checks them. It is installed
# into two new environments without anything being downloaded but hatchling: one beside all packages of the environment
# this runs in, one beside all but pytorch-lightning.
set -euo pipefail
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
unset PYTHONPATH
export NO_COLOR=1
packages=$(python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')

beside() { # NAME PATTERN: an environment with the wheel, beside all packages whose names do not match
  python -m venv --without-pip "$work/$1"
  local own package
  own=$("$work/$1/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
  for package in "$packages"/*; do
    [[ $(basename "$package") =~ $2 ]] || ln -s "$package" "$own/"
  done
  python -m pip --python "$work/$1" install --quiet --no-index --no-deps "$work"/dist/*.whl
}
says() { # WORDS COMMAND...: it ends well, and prints the words
  local words=$1
  shift
  "$@" >"$work/said" 2>&1 || { cat "$work/said"; echo "failed: $*"; return 1; }
  grep -qF -- "$words" "$work/said" || { cat "$work/said"; echo "does not say '$words': $*"; return 1; }
}

python -m build --outdir "$work/dist" . >"$work/said" 2>&1 || { cat "$work/said"; exit 1; }
says 'PASSED' python -m twine check --strict "$work"/dist/*
for file in "$work"/dist/*; do
  [ "$(du -k "$file" | cut -f1)" -le 1000 ] || { echo "failed: $file is larger than 1000 kB"; exit 1; }
done
ours='^(lightning_sparse|_?_editable_impl_lightning_sparse|__pycache__)'
beside user "$ours"
beside twin "$ours|^(pytorch_lightning|lightning_fabric)"

mkdir "$work/empty"
cd "$work/empty"
PATH="$work/user/bin:$PATH"
says "$work/user/" python -c 'import importlib.util as u; print(u.find_spec("lightning_sparse").origin)'
says 'lightning-sparse 0.' lightning-sparse --version
says 'recipes [list FOLDER' python -m lightning_sparse --help
says 'overlays/dense' lightning-sparse recipes list overlays
says 'net.fcs.0' lightning-sparse plan --config quickstart
says '2,510' lightning-sparse fit --config quickstart --trainer.max_epochs 2
says 'Read: runs/quickstart' lightning-sparse summary runs/quickstart
says 'report.html' lightning-sparse report runs/quickstart
for format in $(python -c 'from lightning_sparse.export import EXPORT_FORMATS; print(*EXPORT_FORMATS)'); do
  says "wrote $format" lightning-sparse export runs/quickstart --format "$format" --out "$format"
done

# A sweep that is killed in the middle of a cell, and started again, ends with the table of one that was not.
cat >sweep.yaml <<'END'
recipe: quickstart
set: {trainer.max_epochs: 3}
grid:
  trainer.callbacks.PruneAtInit.method: [erk, synflow]
  seed_everything: [0, 1]
threads: 1
END
says 'synflow' lightning-sparse sweep sweep.yaml --out whole
setsid lightning-sparse sweep sweep.yaml --out cut >/dev/null 2>&1 &
until compgen -G 'cut/*seed=1/run/version_0/checkpoints/*' >/dev/null; do
  kill -0 $! || { echo "failed: the sweep that is to be killed"; exit 1; }
  sleep 0.05
done
kill -KILL -- -$!
if compgen -G 'cut/method=synflow,seed=1/metrics.json' >/dev/null; then echo "failed: killed too late"; exit 1; fi
says 'synflow' lightning-sparse sweep sweep.yaml --out cut
cmp whole/summary.csv cut/summary.csv
rm -r whole cut

says 'Wrote quickstart.yaml' lightning-sparse recipes copy quickstart
cmp quickstart.yaml "$OLDPWD/recipes/quickstart.yaml"
rm -r quickstart.yaml runs

PATH="$work/twin/bin:$PATH"
says '2,510' lightning-sparse fit --config quickstart --trainer.max_epochs 2
says 'lightning.pytorch only' python - <<'END'
import sys

import torch

from lightning_sparse import PruneAtInit
from lightning.pytorch import Trainer
from lightning.pytorch.demos.boring_classes import BoringModel

module = BoringModel()
Trainer(max_steps=2, callbacks=[PruneAtInit("erk", density=0.25)], logger=False).fit(module)
assert int(module.layer.weight.count_nonzero()) == 16
assert torch.equal(module.layer.weight, torch.load("checkpoints/epoch=0-step=2.ckpt")["state_dict"]["layer.weight"])
print("lightning.pytorch only" if "pytorch_lightning" not in sys.modules else "pytorch_lightning was imported")
END
