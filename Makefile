# Common tasks. Each target creates .venv if needed.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
DONE   := $(VENV)/.installed

.PHONY: help install quickstart test test-all chaos fuzz lint format clean

help:
	@echo "make quickstart  runs extract, train, score and evaluate on a synthetic corpus (under 6 minutes)"
	@echo "make test        runs the tests that are not marked slow"
	@echo "make test-all    runs all tests: also clusters, killed processes, browsers, every preset"
	@echo "make chaos       kills 300 processes and nodes, compares every dataset (about 40 minutes)"
	@echo "make fuzz        extracts from 2,000 damaged and hostile files (about 10 minutes)"
	@echo "make lint        ruff, mypy, import-linter"
	@echo "make format      ruff's formatter and safe fixes"
	@echo "make clean       removes .venv and caches"

$(DONE): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "dfscan needs Python 3.11 or later; run: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $(DONE)

install: $(DONE)

quickstart: $(DONE)
	$(BIN)/dfscan quickstart quickstart --overwrite

# Tests that kill processes or start their own clusters run alone on the machine.
ALONE  := tests/chaos tests/e2e/test_ray.py tests/e2e/test_ray_training.py tests/e2e/test_cluster.py
# make test leaves out tests that are marked slow.
test: CHOSEN = -m "not slow"

test test-all: $(DONE)
	$(BIN)/python -m pytest $(CHOSEN) -n 2 --dist loadfile $(ALONE:%=--ignore %)
	$(BIN)/python -m pytest $(CHOSEN) --durations 10 $(ALONE)

chaos: $(DONE)
	$(BIN)/python tests/chaos/campaign.py --count 300

fuzz: $(DONE)
	$(BIN)/python tests/fuzz/fuzz.py --count 2000

lint: $(DONE)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

format: $(DONE)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache
