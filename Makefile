# make demo: install, then the whole way on the embedded data.   make check: lint, types, contracts.
# make test: the tests.   make test-fast: those that need no whole run, no second process and no browser.
PYTHON ?= python3
BIN := .venv/bin
export OMP_NUM_THREADS ?= 1

.PHONY: demo test test-fast check format site clean

demo: .venv/installed
	$(BIN)/supernet run experiments/recipes/digits.toml

test: .venv/installed
	$(BIN)/python -m pytest -n 2

test-fast: .venv/installed
	$(BIN)/python -m pytest -n 2 -m "not slow"

check: .venv/installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/lint-imports

format: .venv/installed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# The documentation as a site, in site/; a link that leads nowhere ends it.
site: .venv/installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[docs]'
	$(BIN)/mkdocs build --strict

clean:
	rm -rf .venv site

# Pinned versions come from constraints.txt; the marker is written last, so an interrupted installation is completed.
.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@
