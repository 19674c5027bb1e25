#!/usr/bin/env bash
# The tests, from a bare machine with Python 3.11 or newer; flags pass through to pytest.
#
#     bash test.sh               # what every change must pass: at most four minutes on two cores
#     bash test.sh --nightly     # the rest: kill matrix, soak, fuzz, many processes, benchmarks
#     bash test.sh -k losses
#
# A process of pytest for each core, unless -n says how many; each computes with one thread.
set -euo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source "$ROOT/src/environment.sh"

words=(-n auto --dist loadfile --no-loadscope-reorder)
for word in "$@"; do
  case $word in
    --nightly) words+=(-m nightly) ;;
    *) words+=("$word") ;;
  esac
done

make_environment requirements-dev.txt
cd "$ROOT"
export OMP_NUM_THREADS=1
"$PYTHON" -m pytest "${words[@]}"
