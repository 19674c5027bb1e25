#!/usr/bin/env bash
# Everything that needs a GPU, in one run of at most eight minutes: the model's equality there, the
# large steps' share of the matrix product's peak, and whether the small steps keep the GPU busy.
#
#     bash benchmarks/gpu.sh [FOLDER]       # default: $OUT, or results/gpu
#
# Needs one CUDA GPU and a Python (PYTHON, default python3) with torch 2.11 or newer, numpy, pyarrow,
# scipy, tqdm and pytest; no data engine. A part that breaks off or runs out of time leaves its
# message in gpu.json, and the others go on. Ends with status 1 when a part failed.
set -uo pipefail
folder=$(realpath -m "${1:-${OUT:-$(dirname "$0")/../results/gpu}}")
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}
BUDGET=${BUDGET:-470} # seconds for all parts
mkdir -p "$folder" || exit 2
parts=$(mktemp -d)
trap 'rm -rf "$parts"' EXIT
export PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1

part() { # name, most seconds, command…; its standard output is kept in NAME.out
  local name=$1 most=$2 left=$((BUDGET - SECONDS)) status
  shift 2
  if ((left < 10)); then
    echo "no time left" >"$parts/$name.err"
    echo 124 >"$parts/$name.status"
    echo "$name: left out, no time" >&2
    return
  fi
  echo "$name: at most $((most < left ? most : left)) s" >&2
  timeout -k 5 $((most < left ? most : left)) "$@" \
    >"$parts/$name.out" 2> >(tee "$parts/$name.err" >&2)
  status=$?
  echo "$status" >"$parts/$name.status"
  echo "$name: status $status, $SECONDS s so far" >&2
}

step() { # name, most seconds, flags…
  local name=$1 most=$2
  shift 2
  part "$name" "$most" "$PYTHON" benchmarks/speed/step.py --device cuda --json "$@"
}

part tests 110 "$PYTHON" -m pytest -q -p no:cacheprovider -rs tests/method/test_gpu.py
part busy_64_bf16 45 "$PYTHON" benchmarks/speed/gpu_profile.py --hidden 64 --dtype bfloat16 --json
part busy_64_float32 45 "$PYTHON" benchmarks/speed/gpu_profile.py --hidden 64 --dtype float32 --json
large=(--hidden 512 --dtype bfloat16)
step step_512_users_512 80 "${large[@]}" --batch 512
step step_512_users_2048 100 "${large[@]}" --batch 2048 --rounds 5
step step_512_users_4096 60 "${large[@]}" --batch 4096 --rounds 5 --skip_oracle
step step_512_users_8192 60 "${large[@]}" --batch 8192 --rounds 5 --skip_oracle
step step_64_users_128 60 --hidden 64 --dtype bfloat16

"$PYTHON" - "$parts" "$folder/gpu.json" <<'PYTHON_END'
import json, pathlib, sys

parts, target = map(pathlib.Path, sys.argv[1:])
found = {}
for status in sorted(parts.glob("*.status"), key=lambda path: path.stat().st_mtime_ns):
    name, code = status.stem, int(status.read_text())
    out = parts / f"{name}.out"
    text = out.read_text() if out.is_file() else ""
    entry = {"status": code}
    try:
        entry |= json.loads(text)
    except ValueError:
        entry["output"] = text.splitlines()[-40:]
    if code:
        entry["error"] = (parts / f"{name}.err").read_text().splitlines()[-15:]
    found[name] = entry
target.write_text(json.dumps(found, indent=2) + "\n")
shown = ("step_s", "speedup", "share_of_peak", "peak_gflops", "peak_mib", "busy_share", "launches")
for name, entry in found.items():
    figures = [f"{key} {entry[key]:.4g}" for key in shown if entry.get(key) is not None]
    figures += entry.get("output", [])[-1:] + entry.get("error", [])[-1:]
    print(f"{name}: status {entry['status']}  " + "  ".join(figures))
print(target)
sys.exit(any(entry["status"] for entry in found.values()))
PYTHON_END
