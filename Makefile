# The two commands of the README, and what a developer runs. Each creates .venv with the project installed editable.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Shared cores: idle OpenMP threads must sleep, not spin.
export OMP_WAIT_POLICY := PASSIVE

.PHONY: quickstart test check perf setup clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints/cpu.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "rearank needs Python 3.11 or newer; set PYTHON=python3.12, say")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints/cpu.txt "torch==2.13.0"
	$(BIN)/python -m pip install --quiet --constraint constraints/cpu.txt --editable '.[train,wandb,fast,dev]'
	touch $@

quickstart: $(STAMP)
	$(BIN)/python run.py experiment=quickstart

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest

test: check

perf: $(STAMP)
	$(BIN)/python experiments/performance/run_all.py

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache
