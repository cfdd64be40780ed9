# make demo: install, train a real controller, a page about it; make install: fittedq alone; make venv: all that its
# development takes; make test: the tests; make test-all: these and the long ones; make check: lint, types, imports;
# make docs: the site, in build/site.
PYTHON ?= python3
BIN := .venv/bin
# Programs that tests start would otherwise each compile the package's source again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: install venv demo test test-all check docs bench-env plants-env clean

install: .venv/.core

.venv/.core: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable . --constraint constraints.txt
	touch $@

venv: .venv/.ready

.venv/.ready: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]' --constraint constraints.txt
	touch .venv/.core $@

demo: install
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

# Warnings are errors. The theme's advertisement of its successor is none of ours.
docs: venv
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

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
