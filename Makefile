# Set-up is inside each target: `make demo` and `make test` work on a fresh machine with Python 3.11+.
PYTHON ?= python3
TORCH ?= torch==2.13.0
VENV ?= .venv
BIN := $(VENV)/bin

# Folder with an index.csv and the configurations that `make matrix` reads beside the presets.
CONFIGS ?= $(firstword $(wildcard ../shared/data/configs) tests/data/configs)

.PHONY: demo test matrix golden lint types docs bench clean

demo: $(VENV)/.compiled
	$(BIN)/meshwise scale llama-3.1-70b --on hgx-h100 --phase decode --batch 32 --context 4096

# All but the runtime's tests share the processors; those start ranks of their own and come after.
test: $(VENV)/.test $(VENV)/.compiled
ifdef ARGS
	$(BIN)/python -m pytest $(ARGS)
else
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist worksteal --ignore tests/runtime
	$(BIN)/python -m pytest tests/runtime
endif

# Every model through every command, and what else takes long; about half an hour on two processors. SEED=N draws other combinations of options than the usual ones.
matrix: $(VENV)/.test $(VENV)/.compiled
	MESHWISE_MATRIX=1 MESHWISE_SEED=$(SEED) MESHWISE_CONFIGS=$(abspath $(CONFIGS)) $(BIN)/python -m pytest tests/matrix -m 'matrix or not matrix' -n auto --maxprocesses 4
	$(BIN)/python -m pytest --ignore tests/matrix -m matrix

# This working tree's answers beside those of a commit (BASE): nothing differs where nothing should.
# ARGS="--only PATTERN" takes some of them, ARGS="--accepted FILE" knows what is decided.
BASE ?= main
golden: $(VENV)/.test
	$(BIN)/python tools/golden.py $(BASE) $(ARGS)

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python tools/check_catalog_sources.py

types: $(VENV)/.dev
	$(BIN)/mypy

docs: $(VENV)/.dev
	$(BIN)/python docs/generate.py --check
	$(BIN)/sphinx-build -W -b html docs build/docs

bench: $(VENV)/.compiled
	$(BIN)/python benchmarks/startup.py
	$(BIN)/python benchmarks/layouts.py
	$(BIN)/python benchmarks/serving.py

# Three stages, each on top of the one before: the tool, what its tests need, what its makers need.
$(VENV)/.core: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	touch $@

# An editable install leaves sources uncompiled where Python may not write bytecode itself: every process would
# compile them again, which takes longer than most answers.
$(VENV)/.compiled: $(VENV)/.core $(shell find src -name '*.py')
	$(BIN)/python -m compileall -q src
	touch $@

# torch first and pinned: a bare requirement would bring a CUDA build of several GB.
$(VENV)/.test: $(VENV)/.core
	$(BIN)/python -m pip install --quiet --disable-pip-version-check '$(TORCH)'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[test,runtime]'
	touch $@

$(VENV)/.dev: $(VENV)/.test
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) build
