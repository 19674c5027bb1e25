#!/usr/bin/env bash
# Every CPU figure of docs/performance.md but the comparison with RecTools (sasrec.sh), one JSON
# object a file in results/speed/. About an hour on two cores; leave the machine alone
# meanwhile.
#
#     bash benchmarks/cpu.sh [NAME…]      # default: all of them
set -euo pipefail
cd "$(dirname "$0")/.."
source benchmarks/speed/measure.sh
wanted="$*"

asked() { # as measure, where the name is wanted
  if [[ -z $wanted || " $wanted " == *" $1 "* ]]; then measure "$@"; fi
}

asked step_512_float32 speed/step --hidden 512 --dtype float32 --rounds 3
asked step_512_bfloat16 speed/step --hidden 512 --dtype bfloat16 --rounds 5 --skip_oracle
asked step_64_float32 speed/step --hidden 64 --dtype float32
asked step_64_bfloat16 speed/step --hidden 64 --dtype bfloat16
asked at_once speed/at_once --rounds 5
asked domains speed/domains
asked catalogue memory/catalogue
asked catalogue_run memory/catalogue_run
asked kernels speed/kernels
asked kernels_middle speed/kernels --hidden 128 256 --rounds 5
asked softmax speed/softmax
asked evaluate speed/evaluate
asked protocols speed/protocols
asked recommend speed/recommend # with the other libraries where PYTHON has them
asked protocols_small speed/protocols --items 14000 --domains 4 --targets 4096
asked end_to_end speed/end_to_end
