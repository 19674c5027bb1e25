#!/usr/bin/env bash
# Every CPU figure of docs/performance.md but the comparison with RecTools (sasrec.sh), one JSON
# object a file in results/speed/. Some fifty minutes on two cores; leave the machine alone
# meanwhile.
#
#     bash benchmarks/cpu.sh [NAME…]      # default: all of them
set -euo pipefail
cd "$(dirname "$0")/.."
source benchmarks/measure.sh
wanted="$*"

asked() { # as measure, where the name is wanted
  if [[ -z $wanted || " $wanted " == *" $1 "* ]]; then measure "$@"; fi
}

asked step_512_float32 step --hidden 512 --dtype float32 --rounds 3
asked step_512_bfloat16 step --hidden 512 --dtype bfloat16 --rounds 5 --skip_oracle
asked step_64_float32 step --hidden 64 --dtype float32
asked step_64_bfloat16 step --hidden 64 --dtype bfloat16
asked domains domains
asked catalogue catalogue
asked catalogue_run catalogue_run
asked softmax softmax
asked evaluate evaluate
asked protocols protocols
asked protocols_small protocols --items 14000 --domains 4 --targets 4096
asked end_to_end end_to_end
