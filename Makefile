# make run, make test and make check each set up what they need; see README.md for Windows and macOS.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.ready

.PHONY: setup run test check screenshots system

setup: system $(STAMP)

# The virtual environment, with the tested versions, for running, tests and benchmarks.
$(STAMP): pyproject.toml constraints.txt setup.py $(wildcard engine/native/src/*)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "GPT Dyno needs Python 3.11 or newer; run make PYTHON=/path/to/python3.11 ..."; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Setting up $(VENV): this takes a minute or two, and longer where PyTorch must be downloaded."
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt "torch" setuptools
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	@touch $@

system:
	@sh scripts/system_libraries.sh

run: setup
	$(BIN)/python main.py

test: setup
	QT_QPA_PLATFORM=offscreen $(BIN)/python -m pytest

check: setup
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

screenshots: setup
	$(BIN)/python scripts/screenshots.py
