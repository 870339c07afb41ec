# `make help` lists what there is. Everything runs in .venv, which `make setup` fills from constraints.txt.

SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
KERNELS := $(VENV)/.kernels

# On shared cores threads that spin while they wait take twice as long: python -m benchmarks.threads.
export OMP_WAIT_POLICY ?= PASSIVE

# What depends on Gymnasium is tested twice: with the version of constraints.txt and with this older one (RLlib's).
OLDER := 1.2.2
OLDER_GYMNASIUM := $(CURDIR)/$(VENV)/gymnasium-$(OLDER)
OLDER_TESTS := $(addprefix tests/test_,checker.py checker_dream.py dream_env.py dream_episodes.py dream_single.py \
  dream_wrappers.py features.py factory.py memory_maze.py::test_passes_the_checker_of_gymnasium)
DREAM := runs/integrations/world_model
MINERL := .venv-minerl/.installed$(if $(MINERL_JAVA),-java)

# PyPI's torch for Linux brings 3 GB of CUDA libraries. Machines without an NVIDIA driver can do without them:
# make setup TORCH_INDEX=https://download.pytorch.org/whl/cpu
TORCH_INDEX ?=

.DEFAULT_GOAL := help
.PHONY: help setup system browser minecraft minerl demo test test-gymnasium fuzz test-slow test-integrations test-loggers lint types results results-minetest memory evidence worlds bench docs kernels cuda wheels gpu clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "%-17s %s\n", $$1, $$2}'

setup: $(STAMP)  ## create .venv and install the package with all extras, at the pinned versions

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || { PYTHON=$(PYTHON) .ci/system-packages venv && $(PYTHON) -m venv $(VENV); }
	$(BIN)/pip install --timeout 20 --retries 1 -c constraints.txt $(addprefix --extra-index-url ,$(TORCH_INDEX)) torch
	$(BIN)/pip install -c constraints.txt -e '.[all,dev,docs,wandb,worlds]'
	! $(BIN)/pip check | grep -v -e '^mamba-ssm ' -e '^No broken requirements'
	touch $@

system:  ## install the system packages that Memory Maze renders with (root), or name them
	PYTHON=$(PYTHON) .ci/system-packages venv render

browser: setup  ## install the browser that the tests of the page run in (root), or name it
	.ci/system-packages browser

minecraft: setup  ## install the Minetest engine and what it runs on without a screen (root), or name them
	.ci/system-packages minecraft

minerl: $(MINERL)  ## the unmodified client of MineRL 0.4.4 in .venv-minerl; with Minecraft (JDK 8): MINERL_JAVA=1

.venv-minerl/.installed .venv-minerl/.installed-java: .ci/minerl-venv
	PYTHON=$(PYTHON) MINERL_JAVA=$(if $(findstring java,$@),1) .ci/minerl-venv $(@D)
	touch $@

# On a machine that does nothing else, DEMO_THREADS=2 OMP_WAIT_POLICY=ACTIVE takes less time: docs/training.md.
DEMO_THREADS ?= 1
demo: setup  ## learn a real MiniGrid world and act in it, with a report: runs/demo/report/index.html
	OMP_NUM_THREADS=$(DEMO_THREADS) $(BIN)/python train_agent.py --preset demo --out runs/demo

# Files of tests are shared out to so many processes, of one thread each.
TEST_PROCESSES ?= 2
test: setup kernels system browser minecraft minerl lint types  ## lint, types and all tests that take seconds
	$(BIN)/python -m pytest -n $(TEST_PROCESSES) --dist loadfile -m "not slow and not gpu"
	$(MAKE) test-gymnasium

test-gymnasium: setup system $(OLDER_GYMNASIUM)  ## the tests of environments, with an older Gymnasium
	PYTHONPATH=$(OLDER_GYMNASIUM) $(BIN)/python -c 'import gymnasium; assert gymnasium.__version__ == "$(OLDER)"'
	PYTHONPATH=$(OLDER_GYMNASIUM) $(BIN)/python -m pytest -n $(TEST_PROCESSES) --dist loadfile -m "not slow and not gpu" $(OLDER_TESTS)

$(OLDER_GYMNASIUM): $(STAMP)
	$(BIN)/pip install --no-deps --upgrade --target $@ gymnasium==$(OLDER)
	touch $@

fuzz: setup  ## 10,000 files, episodes, actions and options: each is refused in one line, or right
	FUZZ=435 OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/test_fuzz.py tests/test_fuzz_options.py --timeout 1800

test-slow: setup kernels system minecraft minerl  ## the tests that take minutes
	$(BIN)/python -m pytest -m slow

# RLlib and Tianshou pin packages that the rest needs newer, and so do Trackio and MLflow: each of the first two, and
# the loggers together, have an environment of their own, .venv-NAME.
test-integrations: export OMP_NUM_THREADS = 1
test-integrations: setup test-loggers $(addprefix .venv-,$(addsuffix /.installed,rllib tianshou))  ## train with RLlib and Tianshou, log to Trackio and MLflow
	test -e $(DREAM)/config.json || $(BIN)/python train_wm.py --preset smoke --out $(dir $(DREAM))
	set -e; for name in rllib tianshou; do \
	  .venv-$$name/bin/python -m pytest tests/test_adapters_$$name.py; \
	  .venv-$$name/bin/python examples/$${name}_*.py --checkpoint $(DREAM); done

test-loggers: export OMP_NUM_THREADS = 1
test-loggers: .venv-loggers/.installed  ## log to Trackio and MLflow, without network
	.venv-loggers/bin/python -m pytest tests/test_tracking_offline.py

# The torch of constraints.txt comes first, or the libraries would bring one of their own.
.venv-%/.installed: pyproject.toml constraints.txt
	test -x $(@D)/bin/python || $(PYTHON) -m venv $(@D)
	$(@D)/bin/pip install -c constraints.txt $(addprefix --extra-index-url ,$(TORCH_INDEX)) torch
	$(@D)/bin/pip install -c <(grep ^torch== constraints.txt) -e '.[$*]' pytest pytest-timeout
	$(@D)/bin/pip check
	touch $@

lint: setup  ## ruff: lint and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup  ## mypy in strict mode on the three packages
	$(BIN)/mypy

results: setup  ## the paper's comparison: docs/results.md, an hour on 2 cores
	$(BIN)/python -m benchmarks.comparison

results-minetest: setup minecraft  ## does it remember a voxel world: docs/results.md, two hours on 2 cores
	$(BIN)/python -m benchmarks.minetest_memory

memory: setup  ## does the memory solve it, does the dream pay: docs/memory.md, hours on 2 cores
	$(BIN)/python -m benchmarks.memory

# One claim: make evidence CLAIM=minigrid-s7. None of them: all. JOBS=4: four runs at once.
CLAIM ?=
JOBS ?= 1
evidence: setup system $(if $(CLAIM),,minecraft)  ## the runs behind every claim: docs/evidence.md, some 110 CPU hours; CLAIM=minigrid-s7: 4
	$(BIN)/python -m benchmarks.evidence $(CLAIM) --jobs $(JOBS)

docs: setup  ## build the documentation site without a warning: docs/_build/index.html
	$(BIN)/python -m sphinx -q -W --keep-going -b html docs docs/_build

# MiniWorld draws on a display.
worlds: setup minecraft  ## record, learn and dream every world that is installed: docs/worlds.md, minutes
	$(if $(shell command -v xvfb-run),xvfb-run -a) $(BIN)/python -m benchmarks.worlds

bench: setup  ## run every benchmark that takes minutes
	set -e; for name in $(basename $(notdir $(wildcard benchmarks/*.py))) throughput; do echo "== $$name"; $(BIN)/python -m "benchmarks.$$name"; done

# mamba-ssm is built for the torch that is installed, so without isolation and without its dependencies; only its
# Triton kernels are used, so its CUDA extension is skipped. The tests run them on CPU, in Triton's interpreter.
kernels: $(KERNELS)  ## add the Triton kernels of mamba-ssm

$(KERNELS): $(STAMP)
	$(BIN)/pip install -c constraints.txt -e '.[cuda]' 'setuptools>=77' wheel
	MAMBA_SKIP_CUDA_BUILD=TRUE MAMBA_FORCE_BUILD=TRUE \
	  $(BIN)/pip install -c constraints.txt --no-deps --no-build-isolation mamba-ssm
	$(BIN)/python -c 'from lssvwm.worldmodel.layers.triton_scan import load_kernel; load_kernel()'
	touch $@

cuda: kernels  ## the same, by the name that error messages give

wheels: kernels  ## what a GPU machine without network lacks, for Python 3.12: wheels/ (benchmarks/gpu/README.md)
	$(BIN)/python -m benchmarks.gpu.wheels --into wheels

gpu: cuda  ## show on this GPU what is claimed of GPUs, nine minutes: runs/gpu/summary.md
	$(BIN)/python -m benchmarks.gpu --out runs/gpu

clean:  ## remove caches and build outputs; .venv and runs stay
	rm -rf build dist docs/_build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -not -path './$(VENV)*/*' -prune -exec rm -rf {} +
