# Two commands: `make demo` trains on the bundled images, `make test` passes the tests.
# Each makes .venv first; a second call takes seconds. PYTHON=python3.12 make demo picks another one.

PYTHON ?= python3
BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
FILES := pyproject.toml constraints.txt $(wildcard setup.py src/toque/augment/kernels/c/* src/toque/data/c/*)

.PHONY: demo test lint types contracts check format clean

demo: .venv/installed
	@$(BIN)/toque train fashion --out runs/fashion

# Two at once: a worker takes 2 GB. AT_ONCE=0 make test runs them in one process.
AT_ONCE ?= 2
test: .venv/installed-dev
	@$(BIN)/python -m pytest -n $(AT_ONCE)

check: lint types contracts test

lint: .venv/installed-dev
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .

types: .venv/installed-dev
	@$(BIN)/mypy

contracts: .venv/installed-dev
	@$(BIN)/lint-imports

format: .venv/installed-dev
	@$(BIN)/ruff check --fix . ; $(BIN)/ruff format .

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "toque needs Python 3.11 or newer; $(PYTHON) is older. Try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 2; }
	@$(PYTHON) -m venv .venv

.venv/installed: .venv/bin/python $(FILES)
	@echo "installing toque and PyTorch into .venv (some minutes the first time)"
	@$(INSTALL) --editable .
	@touch $@

.venv/installed-dev: .venv/installed
	@$(INSTALL) --editable '.[dev]'
	@touch $@

clean:
	rm -rf .venv build dist src/*.egg-info
