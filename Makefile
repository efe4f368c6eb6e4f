# make train: train Lumiére-1M in about five minutes. make test: run the tests.
# make docs: build the site of the documentation into site/. Each makes the environment in .venv, once.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt

.PHONY: train test lint docs clean

train: .venv/.installed
	$(BIN)/lumenspark train lumiere-1m

test: .venv/.installed-dev
	$(BIN)/python -m pytest -n auto --dist worksteal -m "not slow"

lint: .venv/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: .venv/.installed-dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

clean:
	rm -rf .venv site

.venv/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11 …")'
	$(PYTHON) -m venv .venv
	$(PIP) pip
	$(PIP) --build-constraint constraints.txt --editable .
	touch $@

.venv/.installed-dev: .venv/.installed
	$(PIP) --build-constraint constraints.txt --editable ".[dev]"
	touch $@
