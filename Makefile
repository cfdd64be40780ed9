# make venv: the environment; make demo: train a real controller; make test: the tests; make check: lint, types, imports.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: venv demo test check slow bench-env clean

venv: .venv/.ready

.venv/.ready: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]' --constraint constraints.txt
	touch $@

demo: venv
	$(BIN)/python examples/pendulum.py

test: venv
	$(BIN)/python -m pytest

slow: venv
	$(BIN)/python -m pytest -m slow

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

clean:
	rm -rf .venv .venv-peers build src/*.egg-info
