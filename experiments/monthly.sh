#!/usr/bin/env bash
# Monthly retraining on a log of the preset `planted`: from scratch, or from the previous month.
#
#     bash experiments/monthly.sh
#
# configs/short.json, three seeds (SEEDS): 202310 from scratch, 202311 from it, then 202312
# from scratch, from 202311, and from 202311 with a quarter of the epochs. JOBS seeds are trained in
# parallel (default 2, one thread each; five runs of half a minute to two minutes per seed). Finished
# runs are skipped, interrupted ones resumed. Writes results/monthly.* and results/monthly_differences.*.
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-.venv/bin/python}
SEEDS=${SEEDS:-1 2 3}

"$PYTHON" -m src.dataset.generator --preset planted --out src/dataset/raw/planted
for month in 202310 202311 202312; do
  "$PYTHON" make_dataset.py --data_name=planted --strd_ym="$month"
done
mkdir -p runs/planted/logs
seed() { # all runs of one seed
  local former=
  run() { # name month flags…
    local name=monthly-$1-seed$seed month=$2
    shift 2
    "$PYTHON" main.py --data_name=planted --strd_ym "$month" --config configs/short.json \
      --threads 1 --seed "$seed" --run_name "$name" --resume "$@" >>"runs/planted/logs/$name.log" 2>&1
    former=runs/planted/$name
    echo "done: $name"
  }
  local seed=$1
  run 202312-scratch 202312
  run 202310 202310
  run 202311 202311 --init_from "$former"
  local before=$former
  run 202312 202312 --init_from "$before"
  run 202312-short 202312 --init_from "$before" --max_epochs 4
}
export -f seed
export PYTHON
tr ' ' '\n' <<<"$SEEDS" | xargs -P "${JOBS:-2}" -I{} bash -euo pipefail -c 'seed {}'
"$PYTHON" experiments/monthly.py runs/planted --seeds $SEEDS --out results/monthly
runs=()
for name in 202312-scratch 202312 202312-short; do
  for seed in $SEEDS; do runs+=("runs/planted/monthly-$name-seed$seed"); done
done
"$PYTHON" report.py compare "${runs[@]}" --out results/monthly_differences
