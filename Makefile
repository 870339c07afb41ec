# `make help` lists what there is. Everything runs in .venv, which `make setup` fills from constraints.txt.

SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
KERNELS := $(VENV)/.kernels

# PyPI's torch for Linux brings 3 GB of CUDA libraries. Machines without an NVIDIA driver can do without them:
# make setup TORCH_INDEX=https://download.pytorch.org/whl/cpu
TORCH_INDEX ?=

.DEFAULT_GOAL := help
.PHONY: help setup system demo test test-slow lint types results bench kernels cuda clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "%-10s %s\n", $$1, $$2}'

setup: $(STAMP)  ## create .venv and install the package with all extras, at the pinned versions

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || { PYTHON=$(PYTHON) .ci/system-packages venv && $(PYTHON) -m venv $(VENV); }
	$(BIN)/pip install --timeout 20 --retries 1 -c constraints.txt $(addprefix --extra-index-url ,$(TORCH_INDEX)) torch
	$(BIN)/pip install -c constraints.txt -e '.[all,dev]'
	! $(BIN)/pip check | grep -v -e '^mamba-ssm ' -e '^No broken requirements'
	touch $@

system:  ## install the system packages that Memory Maze renders with (root), or name them
	PYTHON=$(PYTHON) .ci/system-packages venv render

demo: setup  ## learn a real MiniGrid world and act in it, with a report: runs/demo/report/index.html
	GOMP_SPINCOUNT=20000 $(BIN)/python train_agent.py --preset demo --out runs/demo

test: setup kernels system lint types  ## lint, types and all tests that take seconds
	GOMP_SPINCOUNT=20000 $(BIN)/python -m pytest -m "not slow and not gpu"

test-slow: setup kernels system  ## the tests that take minutes
	GOMP_SPINCOUNT=20000 $(BIN)/python -m pytest -m slow

lint: setup  ## ruff: lint and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup  ## mypy in strict mode on the three packages
	$(BIN)/mypy

results: setup  ## the paper's comparison: docs/results.md, an hour on 2 cores
	GOMP_SPINCOUNT=20000 $(BIN)/python -m benchmarks.comparison

bench: setup  ## run every benchmark that takes minutes
	set -e; shopt -s nullglob; for script in benchmarks/*.py; do echo "== $$script"; $(BIN)/python "$$script"; done

# mamba-ssm is built for the torch that is installed, so without isolation and without its dependencies; only its
# Triton kernels are used, so its CUDA extension is skipped. The tests run them on CPU, in Triton's interpreter.
kernels: $(KERNELS)  ## add the Triton kernels of mamba-ssm

$(KERNELS): $(STAMP)
	$(BIN)/pip install -c constraints.txt -e '.[cuda]' 'setuptools>=77' wheel
	MAMBA_SKIP_CUDA_BUILD=TRUE MAMBA_FORCE_BUILD=TRUE \
	  $(BIN)/pip install -c constraints.txt --no-deps --no-build-isolation mamba-ssm
	$(BIN)/python -c 'from worldmodel.triton_scan import load_kernel; load_kernel()'
	touch $@

cuda: kernels  ## the same, by the name that error messages give

clean:  ## remove caches and build outputs; .venv and runs stay
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +
