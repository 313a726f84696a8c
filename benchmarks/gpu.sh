#!/usr/bin/env bash
# What runs on a GPU, in under nine minutes: bash benchmarks/gpu.sh [--smoke] [--results FOLDER] [SECTION[=SECONDS] ...]
# Without a section all of them; with seconds, at most that long; --smoke tries them on the CPU, on tiny shapes.
# Prints one table, writes one JSON file and the table beside it. Exit status 1: a section failed; the others ran.
set -uo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
results=$root/benchmarks/results smoke='' wanted=()
while [ $# -gt 0 ]; do
  case $1 in
    --smoke) smoke=--smoke ;;
    --results) results=$(realpath -m "$2") && shift ;;
    -*) sed -n '2,4s/^# //p' "$0" >&2 && exit 2 ;;
    *) wanted+=("$1") ;;
  esac
  shift
done
cd "$root" || exit 2
export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -c 'import lightning_sparse' || exit 2 # or every section would fail, one after the other

whole=520 # seconds of all together: if earlier ones overrun, later ones get less, or do not run
sections=(
  card=10 numerics=35 suite=95 layers=60 kernels=75 transforms=60 tuning=15
  products=30 memory=10 training=40 moves=20 saliency=30
)
[ ${#wanted[@]} -gt 0 ] || wanted=("${sections[@]}")

seconds_of() { # a section
  local section
  for section in "${wanted[@]}" "${sections[@]}"; do # what is asked for comes first
    [[ $section != "$1="* ]] || { echo "${section#*=}" && return; }
  done
  echo 60
}

run() { # seconds at most, then sections
  local limit=$1 left=$((whole - SECONDS)) && shift
  [ "$limit" -lt "$left" ] || limit=$left
  [ "$limit" -gt 0 ] || return
  printf '\n== %s (%ss)\n' "$*" "$SECONDS"
  timeout --kill-after=5 "$limit" python3 -m benchmarks.speed.gpu "$@" $smoke --results "$work"
}

if [ -n "$smoke" ]; then
  export TRITON_INTERPRET=1 # kernels run on the CPU then
  run "$whole" "${wanted[@]%=*}" # in one process: imports take longer than all else
else
  for section in "${wanted[@]%=*}"; do # a process each: one that breaks the device leaves the others alone
    run $(($(seconds_of "$section") + 20)) "$section=$(seconds_of "$section")" # 20: imports, and the last row
  done
fi
printf '\n== table (%ss)\n' "$SECONDS"
python3 -m benchmarks.speed.gpu.table "$work" "${wanted[@]%=*}" --results "$results"
