#!/usr/bin/env bash
# Show on a machine with an NVIDIA GPU what no machine without one can: that Mooring caps there, and what it costs.
#
#   deploy/gpu-check.sh                 everything, 20 to 60 minutes
#   deploy/gpu-check.sh STEP...         only these: doctor kernel parity batching selftest v2 hub overhead
#                                       kernelspeed
#
#   PYTHON=python3                      an interpreter with vLLM 0.32.0 (CUDA); Mooring is installed beside it
#   MOORING_HUB_MODEL=Qwen/Qwen3-0.6B   for `hub` and `overhead`: a model of that shape, which is downloaded
#   OUT=gpu-check                       folder for the logs and the report
#
# Prints one report, with the card of every measurement, and ends with 1 if a step failed, with 2 if none could start.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 2

PYTHON=${PYTHON:-python3}
OUT=${OUT:-gpu-check}
VLLM=0.32.0
ALL=(doctor kernel parity batching selftest v2 hub overhead kernelspeed)
REPORT=$OUT/report.md
failed=0

stop() {
    echo "gpu-check: $*" >&2
    exit 2
}

# What each step runs. Tests bring their own models; `hub` and `overhead` need the network.
step() {
    case $1 in
    doctor) "$PYTHON" -c 'from mooring_server.cli import main; main()' doctor ;;
    kernel) tests tests/hooks/kernel_cases.py tests/hooks/kernel_model_cases.py ;;
    parity) tests tests/hooks/test_parity.py tests/hooks/test_demo_parity.py tests/hooks/test_precision.py ;;
    batching) tests tests/hooks/test_batching.py tests/hooks/test_same_step.py ;;
    selftest) tests tests/hooks/test_selftest.py ;;
    v2) PYTHONPATH=tests tests -p v2_on_cuda tests/hooks/test_parity.py tests/hooks/test_batching.py ;;
    hub) tests tests/server/test_hub_model.py ;;
    overhead)
        "$PYTHON" benchmarks/overhead.py --model "${MOORING_HUB_MODEL:-Qwen/Qwen3-0.6B}" \
            --arms stock,again,off,default --pairs 8 --block-seconds 10 --starts 1 --out "$OUT/overhead.json"
        ;;
    kernelspeed) "$PYTHON" benchmarks/kernel.py --out "$OUT/kernel.json" ;;
    esac
}
# fp32 is compared with a replay on the CPU, so attention must not round it to TF32.
tests() { TRITON_F32_DEFAULT=ieee "$PYTHON" -m pytest -q -p no:cacheprovider "$@"; }

check_machine() {
    "$PYTHON" - <<EOF || exit 2
import sys
from importlib.metadata import PackageNotFoundError, version

def stop(why: str) -> None:
    sys.exit(f"gpu-check: {why}")

try:
    found = version("vllm").split("+")[0]
except PackageNotFoundError:
    stop("no vllm beside $PYTHON: name an interpreter that has vllm==$VLLM with PYTHON=...")
if found != "$VLLM":
    stop(f"vllm {found} beside $PYTHON, and Mooring is made for $VLLM: install that version")
import torch
if not torch.cuda.is_available():
    stop("torch finds no CUDA device: see what nvidia-smi says")
EOF
}

# Mooring, and what its tests use: nothing of vLLM's changes.
install() {
    local pip=("$PYTHON" -m pip)
    "${pip[@]}" --version >/dev/null 2>&1 || pip=(uv pip)
    local into=()
    [ "${pip[0]}" = uv ] && into=(--python "$PYTHON")
    "${pip[@]}" install "${into[@]}" --quiet --no-deps --editable . \
        "$(pinned pytest)" "$(pinned pluggy)" "$(pinned iniconfig)" || stop "could not install Mooring beside $PYTHON"
}
pinned() { grep "^$1==" deploy/requirements/dev.txt; }

facts() {
    echo "# Mooring on a GPU"
    echo
    echo "- $(date -u +%Y-%m-%dT%H:%MZ), commit $(git rev-parse HEAD 2>/dev/null || echo unknown)"
    nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader | sed 's/^/- /'
    "$PYTHON" -c 'import platform, torch
from importlib.metadata import version
packages = ("vllm", "triton", "transformers")
print("- Python", platform.python_version(), "torch", torch.__version__, *(f"{p} {version(p)}" for p in packages))'
    echo
    echo "| step | result | seconds |"
    echo "|---|---|---|"
}

# Run one step into its log, and add its line to the report.
run() {
    local log=$OUT/$1.log began=$SECONDS result=ok
    echo "gpu-check: $1 ..." >&2
    step "$1" >"$log" 2>&1 || result="FAILED ($?), see $log"
    [ "$result" = ok ] || failed=1
    echo "| $1 | $result | $((SECONDS - began)) |" >>"$REPORT"
}

# The last lines of each log: a count of tests, or a card.
tails() {
    local name lines
    for name in "$@"; do
        case $name in overhead | kernelspeed) lines=60 ;; *) lines=12 ;; esac
        printf '\n## %s\n\n```\n' "$name"
        grep -v '^{' "$OUT/$name.log" | tail -n "$lines" | cut -c -200
        printf '```\n'
    done
}

steps=("$@")
[ ${#steps[@]} -gt 0 ] || steps=("${ALL[@]}")
for name in "${steps[@]}"; do
    [[ " ${ALL[*]} " == *" $name "* ]] || stop "there is no step $name; there are ${ALL[*]}"
done
check_machine
mkdir -p "$OUT"
install
facts >"$REPORT"
for name in "${steps[@]}"; do run "$name"; done
tails "${steps[@]}" >>"$REPORT"
cat "$REPORT"
exit $failed
