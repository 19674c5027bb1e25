#!/usr/bin/env bash
# ABXI on one of its own pairs, Beauty and Electronics, beside the figures of its authors.
#
#     bash benchmarks/reference/abxi_pair.sh DIR/abxi [--json FILE] [--work DIR]
#
# DIR/abxi has interactions.csv.gz (experiments/logs/abxi.py). The data and the split are those of
# https://github.com/DiMarzioBian/ABXI: both domains' events as logged, a user's last event is the
# target, the one before it that of validation, ranked among 999 negatives of its domain. Its README
# has five seeds; here is one, some half an hour of one core.
#
# The settings are those of its demo.sh (configs/abxi_paper.json, --abxi_rank 64). What differs:
#
# - Rate: 1e-3, with two epochs of warm-up, then linear to 0 over 40 epochs; theirs 1e-4 with ten,
#   a third of it after 31 epochs without a better validation, and the end after 62 such epochs. The
#   weight decay of 5 is theirs: it bounds the weights whatever the rate.
# - Validation: the MRR among all items of the domain; theirs among 999, drawn anew every epoch.
# - First event: a target here, predicted from a start token. src/baselines/abxi.py has the rest.
# - Negatives of a step: 128 of the target's domain; theirs, 128 of each domain in one softmax.
# - Negatives of a target: 999 in all, of which the user's own are left out; theirs are 999 without.
# - Ties: expected rank; theirs, the best one. Order of events of one day: by domain and item id;
#   theirs, by domain and row of the raw file.
set -euo pipefail
usage="usage: bash benchmarks/reference/abxi_pair.sh DIR/abxi [--json FILE] [--work DIR]"
fail() {
  echo "error: $*" >&2
  exit 2
}

[[ $# -ge 1 && $1 != -* ]] || fail "$usage"
raw=$(realpath "$1")
shift
json=() work=
while [[ $# -gt 0 ]]; do
  [[ $# -ge 2 ]] || fail "$1 needs a value; $usage"
  case $1 in
    --json) json=(--json "$(realpath "$2")") ;;
    --work) work=$(realpath "$2") ;;
    *) fail "$1 is unknown; $usage" ;;
  esac
  shift 2
done
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
PYTHON=${PYTHON:-.venv/bin/python}
work=${work:-runs/reference}
[[ -f $raw/interactions.csv.gz ]] || fail "$raw has no interactions.csv.gz"

data=$work/abxi-beauty-electronics
[[ -f $data/data_card.json ]] || "$PYTHON" make_dataset.py --data_name abxi --strd_ym 201407 \
  --raw_dir "$raw" --domains Beauty Electronics --tie_order as_logged --out_dir "$data"
"$PYTHON" main.py --config configs/abxi_paper.json --abxi_rank 64 --lr 1e-3 --lr_schedule linear \
  --warmup_epochs 2 --patience_epochs 40 --max_epochs 40 --no-trend --no-repeat --sampled_negatives 999 \
  --protocol full sampled full-unseen sampled-unseen --threads 1 --device cpu --data_dir "$data" \
  --runs_dir "$work" --run_name abxi-pair --resume
"$PYTHON" benchmarks/reference/abxi_pair_table.py "$work"/abxi/abxi-pair ${json[@]+"${json[@]}"}
