# Each target does its own set-up: .venv is made and filled from the pinned constraints.txt.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PACKAGES := dist/tested
# The tests of parts, and what checks types and shapes of all arguments and results while they run.
PARTS := tests/parity tests/property tests/unit
CHECKED := --jaxtyping-packages=fusseg,benchmarks,beartype.beartype
PIP := -m pip install --quiet --disable-pip-version-check
# Processes keep what they have compiled, also where the environment says otherwise.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: install demo deploy-demo docs test test-deploy test-browser test-docs test-formats test-package test-package-newest test-package-lowest test-properties bench-speed format check tests coverage clean

# pip compiles modules on one core, which takes half of an installation; here all cores do it. A package may hold
# files of a newer Python, which cannot be compiled and are never imported here: they do not end the installation.
install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt src/fusseg/core/version.py
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python $(PIP) --no-compile -c constraints.txt "torch==2.13.0" -e ".[dev,docs,flower,cluster,trackers,efficientnet,privacy]"
	$(BIN)/python -m compileall -qq -j 0 $(VENV)/lib || true
	touch $@

# Three sites train on generated pipe scenes, a fourth, unseen one is scored.
demo: $(STAMP)
	$(BIN)/python -m fusseg run examples/pipes.toml --out runs/demo-$$(date +%Y%m%d-%H%M%S) --cache runs/cache

# Server and three sites as processes of their own, with TLS and keys; then the same, simulated.
deploy-demo: $(STAMP)
	rm -rf runs/deploy runs/deploy-simulated runs/keys runs/sites runs/scenes
	$(BIN)/python examples/deploy_demo.py runs

# The promises of a deployment, with real processes and real clocks: slower than the other tests, and tried
# twice, since a machine that others share may stall for longer than a deadline. The summary counts reruns.
# Three federations at a time, in the order of the files: the longest tests come first.
test-deploy: $(STAMP)
	$(BIN)/python -m pytest -n 3 --dist load --maxschedchunk 1 -m deploy --reruns 1 tests/deployment

# The report's pages in a headless Chromium, driven by keyboard and mouse; screenshots are in runs/screenshots.
test-browser: $(STAMP)
	@for program in chromium chromedriver; do \
		command -v $$program >/dev/null || { echo "$$program is missing: apt-get install chromium chromium-driver" >&2; exit 1; }; \
	done
	FUSSEG_SCREENSHOTS=runs/screenshots $(BIN)/python -m pytest -m browser tests/browser

# Annotations, read back by the libraries of the labeling tools, which have a virtual environment of their own.
test-formats: $(STAMP) .venv-formats/.installed
	FUSSEG_FORMATS_PYTHON=$(CURDIR)/.venv-formats/bin/python $(BIN)/python -m pytest -m formats tests/formats

.venv-formats/.installed: tests/formats/requirements.txt
	$(PYTHON) -m venv .venv-formats
	.venv-formats/bin/python $(PIP) -r tests/formats/requirements.txt
	touch $@

# Wheel and sdist, built once: what is in them, and all that users do, in empty environments with the newest and with
# the lowest versions of what the package asks for, both at a time.
test-package: $(STAMP) .venv-package/.installed
	rm -rf $(PACKAGES)
	.venv-package/bin/python -m build -o $(PACKAGES)/both . >/dev/null
	.venv-package/bin/python -m build --wheel -o $(PACKAGES)/tree . >/dev/null
	$(MAKE) --no-print-directory --output-sync=target -j 2 test-package-lowest test-package-newest

test-package-newest:
	FUSSEG_PACKAGES=$(CURDIR)/$(PACKAGES) FUSSEG_VERSIONS=newest FUSSEG_PACKAGE_PYTHON=$(CURDIR)/.venv-package/bin/python \
		$(BIN)/python -m pytest -m package tests/package

test-package-lowest:
	FUSSEG_PACKAGES=$(CURDIR)/$(PACKAGES) FUSSEG_VERSIONS=lowest \
		$(BIN)/python -m pytest -m package tests/package/test_bare.py tests/package/test_extras.py

.venv-package/.installed: tests/package/requirements.txt
	$(PYTHON) -m venv .venv-package
	.venv-package/bin/python $(PIP) -r tests/package/requirements.txt
	touch $@

# The documentation as a site, site/index.html; a warning is an error. Its search needs a server:
# python -m http.server -d site. The variable silences a notice that the theme prints.
docs: $(STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet

# The documentation's commands and Python, as they stand on the pages, and the examples in docstrings.
test-docs: $(STAMP)
	$(BIN)/python -m pytest -n 2 $(CHECKED) --doctest-modules src/fusseg
	$(BIN)/python -m pytest -n 2 -m docs tests/docs

# The property tests on a thousand new examples each instead of the same few, by hand; under 10 minutes.
test-properties: $(STAMP)
	$(BIN)/python -m pytest -n 2 --hypothesis-profile thorough $(CHECKED) tests/property

# Speed and memory of every stage against their floors, within an hour; nothing else should run meanwhile.
# OPTIONS are those of docs/speed.md: make bench-speed OPTIONS="--quick --json runs/speed.json"
bench-speed: $(STAMP)
	$(BIN)/python -m benchmarks.speed $(OPTIONS)

# Every check: format, lint, types, layers, tests.
test: check tests

check: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# A file at a time in each of three processes, which sometimes wait for others, in the order of the files: by default
# files of few tests come last, which are the slowest, and cores would be idle. The checks of types and shapes make whole
# runs three times as slow, so that only the tests of parts have them.
tests: $(STAMP)
	$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder $(PARTS:%=--ignore=%)
	$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder $(CHECKED) $(PARTS)

coverage: $(STAMP)
	$(BIN)/python -m pytest --cov --cov-report=term-missing:skip-covered

format: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) .venv-formats .venv-package runs dist site .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
