# make demo: set up and see it work. make test: set up and run all tests.
# On a fresh machine: Python 3.11 or later, pip and make.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/installed
WORKERS ?= auto

.PHONY: help demo test lint bench fuzz torture soak clean

help:
	@sed -n '1,2s/^# //p' Makefile

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "protoserve needs Python 3.11 or later"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		--editable '.[cli,fast,test,interop,lint]'
	@touch $@

demo: $(STAMP)
	$(BIN)/python -m examples.demo

test: $(STAMP)
	$(BIN)/python -m pytest -n $(WORKERS) $(PYTEST_ARGS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell protoserve protocols examples tests docs benchmarks *.md

bench: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		--editable '.[bench]'
	$(BIN)/python -m benchmarks.server --write-docs $(BENCH_ARGS)
	$(BIN)/python -m benchmarks.telemetry --write-docs

fuzz: $(STAMP)
	$(BIN)/python tests/fuzz/run.py --cases 200000

soak: $(STAMP)
	$(BIN)/python -m tests.telemetry.soak --minutes 5 $(SOAK_ARGS)

torture: $(STAMP)
	$(BIN)/python -m tests.testing.torment --cases 100000

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis
