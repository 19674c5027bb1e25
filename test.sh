#!/usr/bin/env bash
# The tests, from a bare machine with Python 3.11 or newer; flags pass through to pytest.
#
#     bash test.sh
#     bash test.sh -k losses
#     bash test.sh --nightly    # those that take minutes, alone
set -euo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source "$ROOT/src/environment.sh"

make_environment requirements-dev.txt
cd "$ROOT"
if [[ ${1-} == --nightly ]]; then
    shift
    set -- -m nightly "$@"
fi
"$PYTHON" -m pytest "$@"
