# Each target is a line that a person could type; `make bench ARGS="--model=nin"` hands options on.
PYTHON ?= python3
ARGS ?=
BIN := .venv/bin
# One more than there are cores: tests of hangs and limits wait most of their time.
TESTERS := $(shell expr $$(getconf _NPROCESSORS_ONLN) + 1)

.PHONY: bench test test-all test-oldest lint clean

bench: .venv/installed
	$(BIN)/pytest --benchmark-only $(ARGS)

test: .venv/installed lint
	# One thread each: on a busy core, threads that wait for each other take many times as long. By files: the tests
	# of one file may look at the same counters of the machine.
	OMP_NUM_THREADS=1 $(BIN)/pytest tests -m "not slow" --numprocesses=$(TESTERS) --dist=loadfile $(ARGS)

test-all: .venv/installed lint
	OMP_NUM_THREADS=1 $(BIN)/pytest tests --numprocesses=$(TESTERS) --dist=loadfile $(ARGS)

# With the oldest versions that pyproject.toml allows. The other end, the newest, is what `make test` installs.
test-oldest: .venv-oldest/installed
	OMP_NUM_THREADS=1 .venv-oldest/bin/pytest tests -m "not slow" --numprocesses=$(TESTERS) --dist=loadfile $(ARGS)

lint: .venv/installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	touch $@

# Of each requirement, "torch>=2.11", the lower bound as a constraint, torch==2.11.*. They have wheels for Python 3.11, 3.12.
.venv-oldest/installed: pyproject.toml
	$(PYTHON) -m venv .venv-oldest
	.venv-oldest/bin/python -m pip install --quiet --upgrade pip
	grep -oE '"[a-z0-9-]+(\[[a-z]+\])?>=[0-9.]+"' pyproject.toml | \
	    sed -E 's/"([a-z0-9-]+).*>=([0-9.]+)"/\1==\2.*/' > .venv-oldest/oldest.txt
	.venv-oldest/bin/python -m pip install --quiet --editable '.[test]' --constraint .venv-oldest/oldest.txt
	touch $@

clean:
	rm -rf .venv .venv-oldest build *.egg-info results .benchmarks .pytest_cache .ruff_cache .mypy_cache .hypothesis
