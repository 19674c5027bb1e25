#!/usr/bin/env bash
# The table of the grocery log: the effect of repeat purchases. Six runs of a few minutes each.
#
#     pip install -r requirements-completejourney.txt
#     bash experiments/completejourney.sh
#
# The seven departments with at least 2,000 buying households, and products with at least 20 purchases.
# The last two purchases of a household in each department are held out. `kept`: all purchases;
# `removed`: only the first purchase of a product by a household. JOBS runs are trained in parallel
# (default 2, one thread each).
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-.venv/bin/python}
export PYTHON

DATASET=(--data_name=completejourney --strd_ym=201712)
MAKING=(--split=leave_one_out_per_domain --min_item_events=20
  --domains GROCERY "DRUG GM" PRODUCE MEAT-PCKGD MEAT DELI PASTRY)
"$PYTHON" make_dataset.py "${DATASET[@]}" --variant=kept "${MAKING[@]}"
"$PYTHON" make_dataset.py "${DATASET[@]}" --variant=removed --dedup=repeats "${MAKING[@]}"

mkdir -p runs/completejourney/logs
run() { # variant mode
  "$PYTHON" main.py --data_name=completejourney --strd_ym=201712 --variant="$1" --mode="$2" \
    --config=configs/short.json --max_epochs=8 --run_name="$1-$2" --threads=1 --strict_context \
    --resume >>"runs/completejourney/logs/$1-$2.log" 2>&1 && echo "done: $1-$2"
}
export -f run
printf '%s\n' {kept,removed}" "{syncrec,cdsr,sdsr} |
  xargs -P "${JOBS:-2}" -L 1 bash -c 'run "$0" "$1"'

for variant in kept removed; do
  names=("runs/completejourney/$variant-"{sdsr,cdsr,syncrec})
  "$PYTHON" report.py table "${names[@]}" --out "results/completejourney_$variant"
  "$PYTHON" report.py protocols "${names[@]}" --out "results/completejourney_${variant}_protocols"
done
