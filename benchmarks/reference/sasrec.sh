#!/usr/bin/env bash
# Training speed of a plain SASRec, side by side: RecTools 0.19 and this project, on the CPU.
#
#     bash benchmarks/reference/sasrec.sh src/dataset/processed/abxi/201407-core5 [--json FILE]
#         [--rounds 3] [--rectools_steps 20] [--our_steps 60] [--precisions "float32 bf16"]
#
# A round runs RecTools as it comes, RecTools with an allocator that keeps freed memory (as ours
# does), then ours, each a process of its own in an environment of its own; the rounds follow each
# other, so that what else the machine does meets all. The figure of a run is Σ real tokens /
# Σ seconds of its steps after a warm-up of 3: a token is a target that is not padding, counted in
# the batch itself; a step is the time between the ends of two steps, loading included. The ratios
# are to RecTools as it comes, in float32. Some ten minutes on two cores; leave the machine alone
# meanwhile.
#
# PYTHON is this project's interpreter (default .venv/bin/python). RECTOOLS_VENV is the folder of
# RecTools' environment (default benchmarks/.venv-rectools), made from requirements-rectools.txt
# where it is not there.
#
# The same on both sides: training events of all users and domains, a user's newest 50 targets at
# most, batches of 128 users at random, H 64, 2 layers, 1 head, dropout .3, Adam at 1e-3 on a dense
# item table, softmax over the items of all domains, the mean loss of the targets, torch 2.13 with
# its own number of threads, batches made in the training process. RecTools' side has its defaults
# wherever it has one. What differs, as RecTools' source says:
#
# - Padding: RecTools pads every user to 50 slots on the left and computes all of them, the softmax
#   over all items included, with [128, 50, items] logits in one piece; ours packs the tokens and
#   takes the softmax in chunks. This is most of the difference.
# - First event: a target here (predicted from a start token), not in RecTools, where a user of
#   n <= 50 events has n - 1 targets. Both sides count the targets that they train.
# - Items: RecTools knows those of the training events and scores one padding row beside them; ours
#   scores all of the dataset. The table shows both numbers, which differ by less than 0.1 %.
# - Block: RecTools' is that of SASRec's authors: the layer norm before the attention on the query
#   alone, feed-forward width H with ReLU, dropout also on attention weights and between the two
#   feed-forward maps, a last layer norm: 12 H² FLOP of matrix products a token and layer. Ours is
#   post-norm, feed-forward width 4H with GELU, 24 H² FLOP; dropout on both outputs of a layer.
# - Positions count from the newest event in RecTools, from the oldest in ours.
# - Optimiser: betas (.9, .98) in RecTools; (.9, .999), a linear warm-up and a bound on the gradient
#   norm in ours.
# - bf16: Lightning's bf16-mixed in RecTools, autocast with the log-sum-exp in float32 in ours.
# - Allocator: the C library returns large tensors to the system at once and pays for fresh pages
#   at every step; ours switches that off by itself (utils.keep_freed_memory). As RecTools' logits
#   are large, the setting matters to it: hence the second RecTools row.
set -euo pipefail
usage="usage: bash benchmarks/reference/sasrec.sh DATASET_FOLDER [--json FILE] [--rounds N]"
usage+=" [--rectools_steps N] [--our_steps N] [--precisions \"float32 bf16\"]"
fail() {
  echo "error: $*" >&2
  exit 2
}

[[ $# -ge 1 && $1 != -* ]] || fail "$usage"
data=$(realpath "$1")
shift
rounds=3 rectools_steps=20 our_steps=60 precisions="float32 bf16" json=()
while [[ $# -gt 0 ]]; do
  [[ $# -ge 2 ]] || fail "$1 needs a value; $usage"
  case $1 in
    --json) json=(--json "$(realpath "$2")") ;;
    --rounds) rounds=$2 ;;
    --rectools_steps) rectools_steps=$2 ;;
    --our_steps) our_steps=$2 ;;
    --precisions) precisions=$2 ;;
    *) fail "$1 is unknown; $usage" ;;
  esac
  shift 2
done
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
PYTHON=${PYTHON:-.venv/bin/python}
venv=${RECTOOLS_VENV:-benchmarks/.venv-rectools} # as PYTHON, from the root of the repository
[[ -f $data/data_card.json ]] || fail "$data is not a dataset folder; make one with make_dataset.py"
"$PYTHON" -c "import torch" 2>/dev/null ||
  fail "$PYTHON lacks this project's packages; run train.sh once, or set PYTHON"

source benchmarks/reference/environment.sh
make_environment "$venv" benchmarks/reference/requirements-rectools.txt
runs=$(mktemp)
trap 'rm -f "$runs"' EXIT
for ((round = 1; round <= rounds; round++)); do
  for precision in $precisions; do
    echo "round $round of $rounds, $precision" >&2
    rectools=("$venv/bin/python" benchmarks/reference/sasrec_rectools.py "$data"
      --steps "$rectools_steps" --precision "$precision" --seed "$round")
    "${rectools[@]}" >>"$runs"
    MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=17179869184 \
      "${rectools[@]}" --label ", freed memory kept" >>"$runs"
    "$PYTHON" benchmarks/reference/sasrec_ours.py "$data" --steps "$our_steps" \
      --precision "$precision" --seed "$round" >>"$runs"
  done
done
"$PYTHON" benchmarks/reference/sasrec_table.py "$runs" ${json[@]+"${json[@]}"}
