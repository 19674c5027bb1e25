#!/usr/bin/env bash
# The main job, from a bare machine with Python 3.11 or newer: environment, dataset, training,
# results.
#
#     bash train.sh                # the quick configuration on the bundled, generated log
#     bash train.sh --seed 7       # another run: extra flags pass through to main.py
#     bash train.sh --data_name=completejourney --strd_ym=201712    # another log
#
# What exists is used again: the environment, the dataset, a finished run. A run that was
# interrupted goes on from its last epoch. --overwrite trains anew.
set -euo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source "$ROOT/src/environment.sh"

DATASET=( # which log, for both commands, unless flags say otherwise
  --data_name=amazon
  --strd_ym=202312
)
MAKING=( # more flags of make_dataset.py, such as --raw_dir or --min_user_events=5
)
TRAINING=(
  --config="$ROOT/configs/quick.json"
  --mode=syncrec
  --loss=ce
  --device=auto
)

case " $* " in
  *" --overwrite "* | *" --help "* | *" -h "*) ;;
  *) TRAINING+=(--resume) ;;
esac

dataset_flag=
for word in "$@"; do # flags that name the dataset are for make_dataset.py too
  case $word in
    --data_name=* | --strd_ym=* | --variant=*) DATASET+=("$word") ;;
    --data_name | --strd_ym | --variant) DATASET+=("$word") && dataset_flag=1 && continue ;;
    *) [[ -z $dataset_flag ]] || DATASET+=("$word") ;;
  esac
  dataset_flag=
done

make_environment requirements.txt
case " ${DATASET[*]} " in
  *completejourney*) "$PYTHON" -m pip install --quiet --disable-pip-version-check \
    -r "$ROOT/requirements-completejourney.txt" ;;
esac
# an empty array counts as unset before bash 4.4 (macOS has 3.2)
"$PYTHON" "$ROOT/make_dataset.py" "${DATASET[@]}" ${MAKING[@]+"${MAKING[@]}"}
"$PYTHON" "$ROOT/main.py" "${DATASET[@]}" "${TRAINING[@]}" "$@"
