#!/usr/bin/env bash
# The ABXI table of the README: four models, two step losses, one seed, the default order of ties.
#
#     bash experiments/abxi.sh RAW_DIR
#
# RAW_DIR holds ABXI's interactions.csv.gz (user_id,item_id,domain,unix_time). JOBS runs go side by
# side (default 2, one thread each); a finished run is not run again, a broken one goes on.
set -euo pipefail
raw_dir=$(realpath "${1:?usage: bash experiments/abxi.sh RAW_DIR}")
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-.venv/bin/python}

"$PYTHON" make_dataset.py --data_name=abxi --strd_ym=201407 --variant=core5 \
  --raw_dir="$raw_dir" --min_user_events=5 --min_item_events=5

mkdir -p runs/abxi/logs
run() { # mode loss
  local name="$1-$2" budget=()
  [ "$2" = bce ] && budget=(--max_epochs 25) # at the latest: it learns slowly
  "$PYTHON" main.py --config configs/abxi.json --mode "$1" --loss "$2" --run_name "$name" \
    "${budget[@]}" --resume >>"runs/abxi/logs/$name.log" 2>&1 && echo "done: $name"
}
export -f run
export PYTHON
printf '%s\n' "syncrec ce" "cdsr ce" "sdsr ce" "sdsr_separate ce" \
  "syncrec bce" "sdsr_separate bce" "sdsr bce" "cdsr bce" |
  xargs -P "${JOBS:-2}" -L 1 bash -c 'run "$0" "$1"'

names=()
for loss in ce bce; do
  for mode in sdsr_separate sdsr cdsr syncrec; do names+=("runs/abxi/$mode-$loss"); done
done
"$PYTHON" report.py table "${names[@]}" --out results/abxi
"$PYTHON" experiments/abxi_differences.py runs/abxi --out results/abxi_differences
