# The two commands of the README, and what a developer runs. Each creates .venv with the project installed editable.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Shared cores: idle OpenMP threads must sleep, not spin.
export OMP_WAIT_POLICY := PASSIVE
# Every process compiles every module anew where a shell or an image sets this: 2 s of each start.
unexport PYTHONDONTWRITEBYTECODE

# The cluster's packages (verl, Ray, vLLM's CPU build) live apart: their pins are not the others'.
CLUSTER ?= .venv-cluster
# The core alone, on the newest Python.
NEWEST ?= .venv-newest
CLUSTER_STAMP := $(CLUSTER)/.installed
# The adapters' libraries: their pins are not ours either (an older openai, antlr4 and datasets).
ADAPTERS ?= .venv-adapters
ADAPTERS_STAMP := $(ADAPTERS)/.installed

# model=smollm2_q4_1 looks for it here.
REAL ?= models/smollm2_q4_1

# An interpreter of that version which runs here and can make environments, pyenv's too; nothing where there is none.
find = $(shell PYENV_VERSION=$$(pyenv latest $(1) 2>/dev/null) python$(1) -c 'import ensurepip, sys; print(sys.executable)' 2>/dev/null)

.PHONY: quickstart test test-real real real-train check test-newest perf setup clean lock mutants test-cluster test-cluster-full test-adapters

setup: $(STAMP)

$(STAMP): pyproject.toml constraints/cpu.txt
	$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13) and "rearank needs Python 3.11, 3.12 or 3.13; set PYTHON=python3.12, say")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints/cpu.txt "torch==2.13.0" uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints/cpu.txt --editable '.[train,gguf,wandb,fast,api,serve,pyterrier,sweeps,dashboard,dev]'
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

# No torch there: tests that need it are skipped, and the environment takes seconds.
test-newest: $(STAMP)
	$(BIN)/uv venv --quiet --clear --python $(or $(call find,3.13),$(call find,3.12),$(PYTHON)) $(NEWEST)
	$(BIN)/uv pip install --quiet --python $(NEWEST)/bin/python --constraint constraints/cpu.txt --editable '.[wandb,api,serve,sweeps]' \
	  httpx hypothesis pytest pytest-timeout pytest-xdist
	$(NEWEST)/bin/python -m pytest -m "not slow" --numprocesses auto --maxprocesses 4 --dist worksteal

# The lock file is complete, so nothing is resolved and nothing it leaves out (torchvision, say) can come in.
# Python 3.12 where there is one, as on GPUs, whose flash-attention has wheels for it alone; PYTHON=... says otherwise. Where no
# index has torch's CPU build for it, this takes the CUDA one with its libraries, 3 GB: that works on a CPU, too.
CLUSTER_PYTHON = $(if $(filter file,$(origin PYTHON)),$(or $(call find,3.12),$(PYTHON)),$(PYTHON))
$(CLUSTER_STAMP): pyproject.toml constraints/cluster-cpu.txt
	test -x $(CLUSTER)/bin/python || $(CLUSTER_PYTHON) -m venv $(CLUSTER)
	$(CLUSTER)/bin/python -m pip install --quiet --constraint constraints/cluster-cpu.txt uv
	$(CLUSTER)/bin/uv pip install --quiet --python $(CLUSTER)/bin/python --constraint constraints/cluster-cpu.txt "torch==2.13.0"
	$(CLUSTER)/bin/uv pip install --quiet --python $(CLUSTER)/bin/python --no-deps --requirement constraints/cluster-cpu.txt
	$(CLUSTER)/bin/uv pip install --quiet --python $(CLUSTER)/bin/python --no-deps --editable .
	touch $@

# Starting the cluster's processes is one core's work most of the time; the other one tests the rest.
test-cluster: $(CLUSTER_STAMP)
	$(CLUSTER)/bin/python -m pytest tests/cluster -m "not full" --numprocesses 2 --dist loadfile --no-loadscope-reorder

test-cluster-full: $(CLUSTER_STAMP)
	$(CLUSTER)/bin/python -m pytest tests/cluster -m full

# Complete as well; torch is installed first, from where pip has its CPU build.
$(ADAPTERS_STAMP): pyproject.toml constraints/adapters.txt
	test -x $(ADAPTERS)/bin/python || $(or $(call find,3.11),$(PYTHON)) -m venv $(ADAPTERS)
	$(ADAPTERS)/bin/python -m pip install --quiet --constraint constraints/adapters.txt "torch==2.13.0" uv
	$(ADAPTERS)/bin/uv pip install --quiet --python $(ADAPTERS)/bin/python --no-deps --requirement constraints/adapters.txt
	$(ADAPTERS)/bin/uv pip install --quiet --python $(ADAPTERS)/bin/python --no-deps --editable .
	touch $@

# Each adapter inside the library that it is for, and /v1/rerank behind the clients that call it.
test-adapters: $(ADAPTERS_STAMP)
	$(ADAPTERS)/bin/python -m pytest tests/adapters --numprocesses 2 --dist loadfile

# What only a real tokenizer and real weights show: of SmolLM2-135M-Instruct, which a package of 93 MB holds in 4 bits a weight. Where no
# package index is reached, and for vLLM and verl where their environment isn't there, this says so and skips.
test-real: $(STAMP)
	$(BIN)/python -m tests.real.fetch $(REAL)
	REARANK_REAL=$(REAL) OMP_NUM_THREADS=2 $(BIN)/python -m pytest tests/real -rs
	@if test -x $(CLUSTER)/bin/python; then \
	  REARANK_REAL=$(REAL) OMP_NUM_THREADS=2 $(CLUSTER)/bin/python -m pytest -rs tests/real/test_vllm.py tests/real/test_real_training.py; \
	else echo "tests/real: vLLM and verl aren't tried: make $(CLUSTER_STAMP), then make test-real again"; fi

# A real model on real text (experiments/real): SciFact measured with the shipped adapters; and the trainings that made them,
# hours, resumed where they stopped. SCIFACT: a folder that holds scifact in BEIR's layout; without it
# ir_datasets fetches the files.
real real-train: $(STAMP)
	$(BIN)/python -m tests.real.fetch $(REAL)
	$(BIN)/python experiments/real/lay_out.py $(SCIFACT)
	$(BIN)/python experiments/real/run.py $(if $(filter real,$@),measure,train) --base $(REAL)

# Every package of the GPU path, and of the adapters' tests. One file for two Pythons: tests/test_extras.py holds it to be complete on both.
ADAPTER_EXTRAS := mcp langchain llamaindex rerankers sentence-transformers haystack verifiers serve api
lock: $(STAMP)
	$(BIN)/uv pip compile pyproject.toml --extra cluster --extra wandb --extra ray-serve --python-version 3.11 --python-platform x86_64-manylinux_2_28 \
	  --custom-compile-command 'make lock (Linux x86_64, CUDA 13, Python 3.11 and 3.12)' \
	  --upgrade --no-annotate --no-emit-index-url --quiet --output-file constraints/cluster.txt
	echo "torch ; python_version < '3'" | $(BIN)/uv pip compile pyproject.toml $(ADAPTER_EXTRAS:%=--extra %) --group adapters \
	  --override /dev/stdin --python-version 3.11 --python-platform x86_64-manylinux_2_28 \
	  --custom-compile-command 'make lock (Linux x86_64, CPU, Python 3.11; torch apart)' \
	  --upgrade --no-annotate --no-emit-index-url --quiet --output-file constraints/adapters.txt

# Minutes. One process: more share the cores with nothing to gain, and the spinner's megabytes go to a file.
mutants: $(STAMP)
	$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints/cpu.txt "mutmut>=3.8,<3.9"
	rm -rf mutants
	mkdir mutants
	OMP_NUM_THREADS=1 nice $(BIN)/mutmut run --max-children 1 > mutants/run.log 2>&1 || { tail -c 3000 mutants/run.log; exit 1; }
	$(BIN)/mutmut export-cicd-stats > /dev/null
	$(BIN)/mutmut results
	@cat mutants/mutmut-cicd-stats.json; echo

perf: $(STAMP)
	$(BIN)/python experiments/performance/run_all.py

clean:
	rm -rf $(VENV) $(CLUSTER) $(ADAPTERS) $(NEWEST) .mypy_cache .ruff_cache .pytest_cache mutants
