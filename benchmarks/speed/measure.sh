# Sourced by cpu.sh and data.sh, in the root: the JSON object of a benchmark, whole or not at all.
#
#     measure NAME BENCHMARK FLAGS…    # python benchmarks/BENCHMARK.py -> results/speed/NAME.json
PYTHON=${PYTHON:-.venv/bin/python}
mkdir -p results/speed

measure() {
  local name=$1 script=$2
  shift 2
  echo "$name" >&2
  "$PYTHON" "benchmarks/$script.py" --json "$@" >"results/speed/.$name.json"
  mv "results/speed/.$name.json" "results/speed/$name.json"
}
