#!/usr/bin/env bash
# One's own log, from a bare machine: dataset, four models with several seeds, report, recommendations.
#
#     bash experiments/own.sh --data_name=shop --strd_ym=202506 --raw_dir=exports --time_col=at
#
# Flags: --seeds 1 2 3, --max_minutes N (stop then; the same command goes on), --config FILE (default
# configs/own.json), --out FOLDER, and those of make_dataset.py. docs/own_logs.md walks through it.
set -euo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
source "$ROOT/src/environment.sh"
make_environment requirements.txt
exec "$PYTHON" "$ROOT/experiments/own.py" "$@"
