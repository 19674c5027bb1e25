#!/usr/bin/env bash
# The main job, from a bare machine with Python 3.11 or newer: environment, dataset, training of
# three models (one per domain, CDSR, SyNCRec), and a table of their results.
#
#     bash train.sh                # the quick configuration on the bundled, generated log
#     bash train.sh --mode=cdsr    # that mode alone, without the table
#     bash train.sh --seed 7       # other runs: extra flags pass through to main.py, and those of
#                                  # make_dataset.py, such as --min_user_events=5, to it
#     bash train.sh --data_name=completejourney --strd_ym=201712    # another log
#
# --run_name=NAME names the runs NAME-MODE; with --mode, NAME. What exists is used again: the
# environment, the dataset, a finished run. A run that was interrupted goes on from its last epoch.
# --overwrite trains anew.
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
  --loss=ce
  --device=auto
)
MODES=(sdsr_separate cdsr syncrec) # one model per domain, one of all domains, both tasks

case " $* " in
  *" --overwrite "* | *" --help "* | *" -h "*) ;;
  *) TRAINING+=(--resume) ;;
esac
case " $* " in # main.py runs once, with the mode that is given
  *" --mode "* | *" --mode="* | *" --help "* | *" -h "*) MODES=() ;;
esac

make_environment requirements.txt
# Flags that name the dataset are for both commands, those that only make_dataset.py knows for it
MAKER_ONLY=$("$PYTHON" - "$ROOT" <<'END'
import sys
from dataclasses import fields

sys.path.insert(0, sys.argv[1])
from src.config.dataset_settings import DatasetSettings
from src.config.settings import Settings

print(*{f.name for f in fields(DatasetSettings)} - {f.name for f in fields(Settings)})
END
)
of=TRAINING
for word in "$@"; do
  if [[ $word == --* ]]; then
    name=${word#--} && name=${name%%=*}
    case " data_name strd_ym variant | $MAKER_ONLY no-shared_items " in
      *" $name "*"|"*) of=DATASET ;;
      *"|"*" $name "*) of=MAKING ;;
      *) of=TRAINING ;;
    esac
  fi
  case $of in
    DATASET) DATASET+=("$word") ;;
    MAKING) MAKING+=("$word") ;;
    TRAINING) TRAINING+=("$word") ;;
  esac
done

case " ${DATASET[*]} " in
  *completejourney*) "$PYTHON" -m pip install --quiet --disable-pip-version-check \
    -r "$ROOT/requirements-completejourney.txt" ;;
esac
# an empty array counts as unset before bash 4.4 (macOS has 3.2)
"$PYTHON" "$ROOT/make_dataset.py" "${DATASET[@]}" ${MAKING[@]+"${MAKING[@]}"}
main() { "$PYTHON" "$ROOT/main.py" "${DATASET[@]}" "${TRAINING[@]}" "$@"; }
if ((${#MODES[@]} == 0)); then
  main
  exit
fi

# What would be refused later is refused here, before the first model is trained
PLAN=$("$PYTHON" - "$ROOT" "${MODES[*]}" "${DATASET[@]}" "${TRAINING[@]}" <<'END'
import sys

sys.path.insert(0, sys.argv[1])
from src.io.errors import run_command
from src.runs.several_modes import print_plan

run_command(lambda: print_plan(sys.argv[2].split(), sys.argv[3:]))
END
)
RUNS=() LIMITS=()
while read -r what path; do
  case $what in
    limits) LIMITS=(--limits="$path") ;;
    *) RUNS+=("$path") ;;
  esac
done <<<"$PLAN"
for n in "${!MODES[@]}"; do
  echo "model $((n + 1)) of ${#MODES[@]}: --mode=${MODES[n]}"
  main --mode="${MODES[n]}" --run_name="${RUNS[n]##*/}"
done
echo
"$PYTHON" "$ROOT/report.py" table "${RUNS[@]}" --metrics ndcg@10 ${LIMITS[@]+"${LIMITS[@]}"}
