# Each target is a line that a person could type; `make bench ARGS="--model=nin"` hands options on.
PYTHON ?= python3
ARGS ?=
BIN := .venv/bin

.PHONY: bench test lint clean

bench: .venv/installed
	$(BIN)/pytest --benchmark-only $(ARGS)

test: .venv/installed lint
	$(BIN)/pytest tests $(ARGS)

lint: .venv/installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	touch $@

clean:
	rm -rf .venv build *.egg-info results .benchmarks .pytest_cache .ruff_cache .mypy_cache .hypothesis
