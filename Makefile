# The two commands of the README, and what a developer runs. Each creates .venv with the project installed editable.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Shared cores: idle OpenMP threads must sleep, not spin.
export OMP_WAIT_POLICY := PASSIVE

# The cluster's packages (verl, Ray, vLLM's CPU build) live apart: their pins are not the others'.
CLUSTER ?= .venv-cluster
CLUSTER_STAMP := $(CLUSTER)/.installed

.PHONY: quickstart test check perf setup clean lock test-cluster test-cluster-full

setup: $(STAMP)

$(STAMP): pyproject.toml constraints/cpu.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "rearank needs Python 3.11 or newer; set PYTHON=python3.12, say")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints/cpu.txt "torch==2.13.0"
	$(BIN)/python -m pip install --quiet --constraint constraints/cpu.txt --editable '.[train,wandb,fast,api,serve,pyterrier,sweeps,dashboard,dev]'
	touch $@

quickstart: $(STAMP)
	$(BIN)/python run.py experiment=quickstart

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist worksteal

test: check

# The lock file is complete, so nothing is resolved and nothing it leaves out (torchvision, CUDA) can come in. uv installs
# it in a minute and compiles it, which every process of Ray's would do again otherwise.
$(CLUSTER_STAMP): pyproject.toml constraints/cluster-cpu.txt
	test -x $(CLUSTER)/bin/python || $(PYTHON) -m venv $(CLUSTER)
	$(CLUSTER)/bin/python -m pip install --quiet --constraint constraints/cluster-cpu.txt "torch==2.13.0" uv
	$(CLUSTER)/bin/uv pip install --quiet --python $(CLUSTER)/bin/python --no-deps --compile-bytecode --requirement constraints/cluster-cpu.txt
	$(CLUSTER)/bin/uv pip install --quiet --python $(CLUSTER)/bin/python --no-deps --editable .
	touch $@

test-cluster: $(CLUSTER_STAMP)
	$(CLUSTER)/bin/python -m pytest tests/cluster -m "not full"

test-cluster-full: $(CLUSTER_STAMP)
	$(CLUSTER)/bin/python -m pytest tests/cluster -m full

# Every package of the GPU path, for Linux x86_64 with Python 3.11 and 3.12: one version each, so no markers are left.
lock: $(STAMP)
	rm -f $(VENV)/cluster.lock
	$(BIN)/uv pip compile pyproject.toml --extra cluster --extra wandb --universal --fork-strategy fewest --python-version 3.11 \
	  --no-annotate --no-header --no-emit-index-url --quiet --output-file $(VENV)/cluster.lock
	{ grep '^#' constraints/cluster.txt; sed 's/ ;.*//' $(VENV)/cluster.lock; } > $(VENV)/cluster.txt
	cp $(VENV)/cluster.txt constraints/cluster.txt

perf: $(STAMP)
	$(BIN)/python experiments/performance/run_all.py

clean:
	rm -rf $(VENV) $(CLUSTER) .mypy_cache .ruff_cache .pytest_cache
