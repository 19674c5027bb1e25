#!/usr/bin/env bash
# The negative-transfer report on ABXI and on the planted log.
#
#     bash experiments/abxi.sh RAW_DIR && bash experiments/planted.sh   # the runs: three seeds each
#     bash experiments/transfer.sh
#
# Writes report/ (report.html, figures/, tables/) and copies its tables and two figures to
# results/transfer/, which is committed.
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-.venv/bin/python}

"$PYTHON" report.py transfer runs/abxi/{sdsr_separate,sdsr,cdsr,syncrec}-ce-seed* \
  runs/planted/{sdsr_separate,sdsr,cdsr}-ce-seed* runs/planted/planted-default-* --out report
mkdir -p results/transfer
cp report/tables/*.md report/tables/*.csv results/transfer/
cp report/figures/abxi-differences.png report/figures/claim.png results/transfer/
