# make venv: the environment; make demo: train a real controller; make test: the tests;
# make test-all: these and the long ones; make check: lint, types, imports.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: venv demo test test-all check bench-env plants-env clean

venv: .venv/.ready

.venv/.ready: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]' --constraint constraints.txt
	touch $@

demo: venv
	$(BIN)/python examples/pendulum.py

# A process for each core, a module of tests at a time.
PYTEST := $(BIN)/python -m pytest -n logical --maxprocesses 4 --dist loadfile --durations 20

test: venv
	$(PYTEST)
	$(PYTEST) --as-shipped

test-all: venv
	$(PYTEST) -m '' --annotations
	$(PYTEST) -m '' --as-shipped

check: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

# The peers' environment, for benchmarks only (PyTorch lives here and nowhere else).
bench-env:
	test -x .venv-peers/bin/python || $(PYTHON) -m venv .venv-peers
	.venv-peers/bin/python -m pip install --quiet torch==2.13.0
	.venv-peers/bin/python -m pip install --quiet --requirement benchmarks/requirements.txt

# The plants' environment, for benchmarks/plants.py only: it needs an older Gymnasium.
plants-env:
	test -x .venv-plants/bin/python || $(PYTHON) -m venv .venv-plants
	.venv-plants/bin/python -m pip install --quiet --requirement benchmarks/requirements-plants.txt --editable .

clean:
	rm -rf .venv .venv-peers .venv-plants build src/*.egg-info
