# Mooring's commands. Each sets up what it needs first; what is there already is left alone.

PORT ?= 8000
PYTHON ?= python3
export PYTHON

.PHONY: help serve test check verify bench install install-dev

help:
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*##/\t/'

install:
	@deploy/setup.sh

install-dev:
	@deploy/setup.sh dev

serve: install ## serve the embedded demo model, capped, on port $(PORT)
	@.venv/bin/mooring serve demo --port $(PORT)

test: install-dev ## everything that runs in minutes; what CI runs
	@.venv/bin/python -m pytest -m "not verify and not gpu" --durations=25 --durations-min=5

check: install-dev ## style, types and generated files; what pre-commit runs
	@.venv/bin/ruff check .
	@.venv/bin/mypy
	@.venv/bin/python deploy/generate.py --check

bench: install ## a short version of every comparison on the demo model, in under 15 minutes
	@.venv/bin/python benchmarks/short.py

verify: install-dev ## everything long; writes tests/results/
	@.venv/bin/python tests/verify.py
