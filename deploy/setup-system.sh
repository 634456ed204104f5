#!/usr/bin/env bash
# Install the Debian packages that are missing and that no Python package brings. Root is needed only if some are.
#
#   deploy/setup-system.sh          what serving needs
#   deploy/setup-system.sh dev      also what tests need
set -euo pipefail

PYTHON=${PYTHON:-python3}

# needed PACKAGE COMMAND...: print PACKAGE unless COMMAND succeeds.
needed() {
    local package=$1
    shift
    "$@" >/dev/null 2>&1 || echo "$package"
}

has_library() { ldconfig -p | grep -q "$1"; }
has_headers() {
    "$PYTHON" -c 'import sysconfig, pathlib, sys
sys.exit(not pathlib.Path(sysconfig.get_path("include"), "Python.h").is_file())'
}
has_postgres() { compgen -G '/usr/lib/postgresql/*/bin/initdb'; }

serving() { # a compiler and headers for torch.compile, vLLM's libnuma
    needed g++ command -v g++
    needed libnuma1 has_library 'libnuma\.so\.1'
    needed python3-dev has_headers
    needed python3-venv "$PYTHON" -c 'import ensurepip, venv'
}

testing() { # what the tests run as it is
    needed chromium command -v chromium
    needed curl command -v curl
    needed prometheus command -v promtool
    needed shellcheck command -v shellcheck
    needed postgresql has_postgres
    needed systemd command -v systemd-analyze
}

packages=$({ serving; if [ "${1:-}" = dev ]; then testing; fi; } | xargs)
if [ -z "$packages" ]; then exit; fi
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "mooring: installing Debian packages: $packages ..." >&2
    apt-get update -qq >/dev/null
    # shellcheck disable=SC2086
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $packages >/dev/null
else
    echo "mooring: these Debian packages are missing: $packages
  run: sudo apt-get install --no-install-recommends $packages" >&2
    exit 1
fi
