#!/usr/bin/env bash
# The negative-transfer report on ABXI and on the planted log, and what the README shows of it.
#
#     bash experiments/abxi.sh RAW_DIR && bash experiments/planted.sh   # the runs: three seeds each
#     bash experiments/transfer.sh
#
# Makes report/ (report.html, figures/, tables/) and copies the tables and two figures that are
# committed to results/transfer/.
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-.venv/bin/python}

"$PYTHON" report.py transfer runs/abxi/{sdsr_separate,sdsr,cdsr,syncrec}-ce-seed* \
  runs/amazon/{sdsr_separate,sdsr,cdsr}-ce-seed* runs/amazon/planted-default-* --out report
mkdir -p results/transfer
cp report/tables/*.md report/tables/*.csv results/transfer/
cp report/figures/abxi-differences.png report/figures/claim.png results/transfer/
