# Each target does its own set-up: .venv is made and filled from the pinned constraints.txt.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: install demo test format check tests coverage clean

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt src/fusseg/version.py
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt "torch==2.13.0" -e ".[dev]"
	touch $@

# Three sites train on generated pipe scenes, a fourth, unseen one is scored.
demo: $(STAMP)
	$(BIN)/python -m fusseg run examples/pipes.toml --out runs/demo-$$(date +%Y%m%d-%H%M%S) --cache runs/cache

# Every check: format, lint, types, layers, tests.
test: check tests

check: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

tests: $(STAMP)
	$(BIN)/python -m pytest

coverage: $(STAMP)
	$(BIN)/python -m pytest --cov --cov-report=term-missing:skip-covered

format: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) runs dist .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
