# `make demo` and `make test` set up everything themselves; `make help` lists the rest.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Without an NVIDIA GPU, torch is pinned to the release whose CPU build is tested with.
CONSTRAINTS := $(shell command -v nvidia-smi >/dev/null 2>&1 || echo "-c constraints-cpu.txt")
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

export TOKENIZERS_PARALLELISM = false

.PHONY: help setup demo check test test-slow test-gpu test-browser bench bench-quick clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/'

$(VENV)/.installed: pyproject.toml constraints-cpu.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "bapo needs Python 3.11 or newer; run: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(PIP) $(CONSTRAINTS) torch
	$(PIP) $(CONSTRAINTS) -e '.[dev]'
	@touch $@

setup: $(VENV)/.installed ## make .venv and install bapo with its development tools

demo: setup ## train a small model with BAPO on Countdown and open the report's path
	$(BIN)/bapo demo

check: setup ## ruff, pyright and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/python -m pytest tests/contract/test_import_direction.py

test: setup ## the default tests: offline, CPU, under ten minutes
	$(BIN)/python -m pytest

test-slow: setup ## the slow tests
	$(BIN)/python -m pytest -m slow

test-gpu: setup ## the tests that need a CUDA device
	$(BIN)/python -m pytest -m gpu

test-browser: setup ## the report in headless Chromium (needs the chromium command)
	$(BIN)/python -m pytest -m browser

bench: setup ## speed and memory beside TRL, generate and the machine's floor; writes docs/performance.md
	$(BIN)/python -m benchmarks.bench

bench-quick: setup ## the same for the smallest model, in three minutes; prints only
	$(BIN)/python -m benchmarks.bench --quick

clean: ## remove .venv and caches
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis
