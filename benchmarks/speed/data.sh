#!/usr/bin/env bash
# Every figure of the data step in docs/performance.md, one JSON object a file in results/speed/. Half
# an hour on two cores and 15 GB of disk; leave the machine alone meanwhile.
#
#     bash benchmarks/speed/data.sh WORK_DIR [ABXI_DIR]
#
# With ABXI_DIR (the folder of its interactions.csv.gz), PySpark and Java the engines are compared
# too.
set -euo pipefail
work=$(realpath "${1:?usage: bash benchmarks/speed/data.sh WORK_DIR [ABXI_DIR]}")
abxi=${2:+$(realpath "$2")}
cd "$(dirname "$0")/../.."
source benchmarks/speed/measure.sh

measure data_10 speed/data --events 10000000 --rounds 3 --work_dir "$work"
measure data_30 speed/data --events 30000000 --skip_pandas --work_dir "$work"
measure data_100 speed/data --events 100000000 --skip_pandas --work_dir "$work"
measure loader speed/loader
if [[ -n $abxi ]]; then
  measure engines_abxi speed/duckdb_spark --raw_dir "$abxi" --strd_ym 201407 --work_dir "$work" \
    -- --min_user_events=5 --min_item_events=5
  measure engines_5 speed/duckdb_spark --work_dir "$work"
fi
