# Two commands do everything on a machine that has only Python (>= 3.11) and make:
#   make quickstart    teach the embedded model to point, and write the report
#   make test          every check that a change must pass
# and a third shows more: make showcase teaches it label maps, depth and captions too.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Each set is installed once, and again when what it depends on changes.
RUNTIME := $(VENV)/.installed
DEV := $(VENV)/.installed-dev

.PHONY: help quickstart showcase test lint types clean

help:
	@echo "make quickstart   set up, train the embedded model, write quickstart/index.html (OUT=DIR: DIR/index.html)"
	@echo "make showcase     the same with every task, label maps, depth and captions too: showcase/index.html"
	@echo "make test         set up, ruff, mypy, size and import gates, pytest"
	@echo "make clean        remove the environment and all caches"

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: ufo-tune needs Python >= 3.11 (got $$($(PYTHON) --version 2>&1)); try make PYTHON=python3.11"; exit 2; }
	$(PYTHON) -m venv $(VENV)

$(RUNTIME): pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet -c constraints.txt -e .
	@touch $@

$(DEV): pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[dev]"
	@touch $@ $(RUNTIME)

quickstart showcase: $(RUNTIME)
	$(BIN)/ufo-tune $@ --out $(or $(OUT),$@)

lint: $(DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python scripts/check_sizes.py

types: $(DEV)
	$(BIN)/mypy

# Two processes of one thread each: threads of two processes on two cores only fight.
# UFO_TUNE_REAL_DATA=DIR adds the tests on real pictures; without it they are skipped and say so.
test: lint types
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache dist build
