#!/usr/bin/env bash
# The tests, from a bare machine with Python 3.11 or newer; flags pass through to pytest.
#
#     bash test.sh
#     bash test.sh -k losses
set -euo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source "$ROOT/src/environment.sh"

make_environment requirements-dev.txt
cd "$ROOT"
"$PYTHON" -m pytest "$@"
