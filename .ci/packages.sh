# Sourced by steps that have an environment of their own.

install_or_skip() { # STEP PYTHON REQUIREMENTS...: where packages cannot be had, say so, and end the step with status 0
  local step=$1 python=$2 log
  shift 2
  log=$("$python" -m pip install --quiet --no-cache-dir "$@" 2>&1) && return
  if grep -qE "from versions: none|Connection|Temporary failure|timed out" <<<"$log"; then
    echo "$step: skipped, as a package cannot be had: $(grep -m 1 ERROR <<<"$log")"
    exit 0
  fi
  tail -20 <<<"$log" # such as versions that exclude each other: pyproject.toml is wrong
  exit 1
}
