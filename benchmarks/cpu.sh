#!/usr/bin/env bash
# Every CPU figure of docs/performance.md but the comparison with RecTools (sasrec.sh), one JSON
# object a file in results/speed/. A quarter of an hour on two cores; leave the machine alone
# meanwhile.
#
#     bash benchmarks/cpu.sh [NAME…]      # default: all of them
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-.venv/bin/python}
mkdir -p results/speed

measure() { # name, benchmark, flags…
  local name=$1 script=$2
  shift 2
  if [[ -n $wanted && " $wanted " != *" $name "* ]]; then return; fi
  echo "$name" >&2
  "$PYTHON" "benchmarks/$script.py" --json "$@" >"results/speed/.$name.json"
  mv "results/speed/.$name.json" "results/speed/$name.json"
}

wanted="$*"
measure step_512_float32 step --hidden 512 --dtype float32 --rounds 3
measure step_512_bfloat16 step --hidden 512 --dtype bfloat16 --rounds 5 --skip_oracle
measure step_64_float32 step --hidden 64 --dtype float32
measure step_64_bfloat16 step --hidden 64 --dtype bfloat16
measure domains domains
measure catalogue catalogue
measure evaluate evaluate
measure protocols protocols
measure protocols_small protocols --items 14000 --domains 4 --targets 4096
measure end_to_end end_to_end
