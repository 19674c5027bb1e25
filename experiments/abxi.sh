#!/usr/bin/env bash
# All ABXI results: models, losses, seeds, protocols, and the order of tied events.
#
#     bash experiments/abxi.sh RAW_DIR
#
# RAW_DIR holds ABXI's interactions.csv.gz (user_id,item_id,domain,unix_time). JOBS runs are trained in
# parallel (default 2, one thread each; 24 runs of three to ten minutes). Finished runs are skipped,
# interrupted ones resumed. experiments/transfer.sh makes the negative-transfer report from these runs
# and those of experiments/planted.sh.
set -euo pipefail
raw_dir=$(realpath "${1:?usage: bash experiments/abxi.sh RAW_DIR}")
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-.venv/bin/python}

for order in hashed as_logged; do
  variant=core5
  [ "$order" = as_logged ] && variant=core5-as_logged
  "$PYTHON" make_dataset.py --data_name=abxi --strd_ym=201407 --variant="$variant" \
    --tie_order="$order" --raw_dir="$raw_dir" --min_user_events=5 --min_item_events=5
done

mkdir -p runs/abxi/logs
run() { # model, loss, tie order, seed
  local model=$1 loss=$2 order=$3 seed=$4 flags=(--mode "$1" --loss "$2" --seed "$4") name
  name=$model-$loss-seed$seed
  if [ "$model" = sasrec ]; then # a plain SASRec over all domains
    flags+=(--mode cdsr --experts_cross 1 --experts_single 0 --gate none --no-towers)
  fi
  [ "$loss" = bce ] && flags+=(--max_epochs 25) # it cuts some of them off: docs/results.md
  if [ "$order" = as_logged ]; then
    flags+=(--variant core5-as_logged) name=$model-$loss-logged-seed$seed
  fi
  "$PYTHON" main.py --config configs/abxi.json "${flags[@]}" --run_name "$name" --strict_context \
    --resume >>"runs/abxi/logs/$name.log" 2>&1 && echo "done: $name"
}
export -f run
export PYTHON
models=(sdsr_separate sdsr cdsr syncrec sasrec)
{
  for seed in 42 43 44; do
    for model in "${models[@]}"; do echo "$model ce hashed $seed"; done
  done
  for model in sdsr_separate sdsr cdsr syncrec; do echo "$model bce hashed 42"; done
  for model in "${models[@]}"; do echo "$model ce as_logged 42"; done
} | xargs -P "${JOBS:-2}" -L 1 bash -c 'run "$@"' run

all=()
for loss in ce bce; do
  for model in "${models[@]}"; do
    [ "$model-$loss" = sasrec-bce ] || all+=(runs/abxi/"$model-$loss"-seed*)
  done
done
"$PYTHON" report.py table "${all[@]}" --out results/abxi
"$PYTHON" report.py protocols runs/abxi/{sasrec,cdsr,syncrec}-ce-seed* --out results/abxi_protocols
"$PYTHON" experiments/abxi_tables.py runs/abxi --out results/abxi
