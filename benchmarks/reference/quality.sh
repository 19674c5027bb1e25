#!/usr/bin/env bash
# Ranking quality of a baseline beside an independent implementation, on the same data: SASRec beside
# RecTools 0.19, GRU4Rec beside RecBole 1.2.1.
#
#     bash benchmarks/reference/quality.sh sasrec src/dataset/processed/abxi/201407-core5
#     bash benchmarks/reference/quality.sh gru4rec src/dataset/processed/abxi/201407-core5
#         [--seeds "42 43"] [--length 20] [--patience 5] [--json FILE] [--work DIR]
#
# Each side trains on the training events, keeps the epoch with the best macro NDCG@10 on the
# validation targets (until --patience epochs bring no better one), and ranks the test targets once, among the items of their
# domain, with all events before the target as context. The independent model hands over vectors of
# users and items, which this project ranks (quality_ranks.py): same targets, candidates, ties and
# metric. The table has the paired differences with 95 % intervals. A seed takes some 15 minutes of
# one core; --work (default runs/reference) keeps what is trained, so a rerun goes on.
#
# PYTHON is this project's interpreter (default .venv/bin/python). RECTOOLS_VENV and RECBOLE_VENV are
# the other environments (default benchmarks/.venv-rectools, .venv-recbole), made where missing.
#
# The same on both sides: each user's newest `length` + 1 training events, and no older one; inputs of
# `length` events; H 64, dropout .3, Adam at 1e-3, softmax over the items of all domains; one thread.
# SASRec: 2 layers, 1 head, batches of 128 users. What differs, as the libraries' sources say:
#
# - First event: ours also trains it, predicted from a start token; the others do not.
# - Items: RecTools has no vector of an item without an event among those trained. It ranks last.
# - Ours: a warm-up of 100 steps and a bound of 5 on the gradient norm.
# - SASRec: sasrec.sh lists the block, the positions, the initial weights and betas of RecTools.
# - GRU4Rec: RecBole makes a sample of every prefix, 512 in a batch (2,048 by default); ours takes all
#   targets of 128 users, 1,237 where `length` is 10. RecBole has no bias in the GRU and no dropout on
#   its outputs. Both have a linear map between GRU and scores. RecBole's default width of the GRU is
#   128, here 64.
set -euo pipefail
usage="usage: bash benchmarks/reference/quality.sh sasrec|gru4rec DATASET_FOLDER"
usage+=" [--seeds \"42 43\"] [--length N] [--patience EPOCHS] [--json FILE] [--work DIR]"
fail() {
  echo "error: $*" >&2
  exit 2
}

[[ $# -ge 2 && $1 =~ ^(sasrec|gru4rec)$ && $2 != -* ]] || fail "$usage"
model=$1
data=$(realpath "$2")
shift 2
seeds="42" length=20 patience=5 json=() work=
while [[ $# -gt 0 ]]; do
  [[ $# -ge 2 ]] || fail "$1 needs a value; $usage"
  case $1 in
    --seeds) seeds=$2 ;;
    --length) length=$2 ;;
    --patience) patience=$2 ;;
    --json) json=(--json "$(realpath "$2")") ;;
    --work) work=$(realpath "$2") ;;
    *) fail "$1 is unknown; $usage" ;;
  esac
  shift 2
done
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
PYTHON=${PYTHON:-.venv/bin/python}
work=${work:-runs/reference}
[[ -f $data/data_card.json ]] || fail "$data is not a dataset folder; make one with make_dataset.py"
"$PYTHON" -c "import torch" 2>/dev/null ||
  fail "$PYTHON lacks this project's packages; run train.sh once, or set PYTHON"

case $model in
  sasrec)
    library=rectools venv=${RECTOOLS_VENV:-benchmarks/.venv-rectools}
    flags=(--layers 2 --heads 1)
    ;;
  gru4rec)
    library=recbole venv=${RECBOLE_VENV:-benchmarks/.venv-recbole}
    flags=(--gru4rec_layers 1 --gru4rec_output)
    ;;
esac
source benchmarks/reference/environment.sh
make_environment "$venv" "benchmarks/reference/requirements-$library.txt"

# Without these, RecTools returns its logits to the system at every step (sasrec.sh, "Allocator")
export OMP_NUM_THREADS=1 MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=17179869184
mkdir -p "$work"
ours=() theirs=()
for seed in $seeds; do
  name=$model-$length-$seed
  record=$work/$library-$name.json
  [[ -f $record ]] || "$venv/bin/python" "benchmarks/reference/quality_$library.py" "$data" \
    --out "$record" --length "$length" --patience "$patience" --seed "$seed"
  compgen -G "$work/*/$name/results.json" >/dev/null || "$PYTHON" main.py --model "$model" --mode cdsr \
    --softmax_items all --hidden 64 --dropout 0.3 --max_len $((length + 1)) --batch_size 128 \
    --lr 1e-3 --max_epochs 60 --patience_epochs "$patience" --seed "$seed" --protocol full --no-trend \
    --no-repeat --threads 1 --device cpu --data_dir "$data" --runs_dir "$work" \
    --run_name "$name" --resume "${flags[@]}"
  ours+=("$work"/*/"$name") theirs+=("$record") # main.py puts a run in a folder named after the data
done
"$PYTHON" benchmarks/reference/quality_table.py --ours "${ours[@]}" --theirs "${theirs[@]}" \
  ${json[@]+"${json[@]}"}
