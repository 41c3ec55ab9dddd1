# Two commands matter: `make demo` (the main job) and `make test` (everything). Both install first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=

.PHONY: install system demo test lint unit wheel clean

install: $(VENV)/.installed

# The stamp is newer than every file that says what to install, so a second run does nothing.
$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "statemesh needs Python 3.11 or newer; name one: make PYTHON=/path/to/python3.11" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -qq --disable-pip-version-check --constraint constraints.txt "pip>=26"
	PIP_CONSTRAINT=constraints.txt $(BIN)/python -m pip install -qq --disable-pip-version-check \
	    --constraint constraints.txt --editable ".[stack]" --group dev
	@touch $@

system:
	@PYTHON=$(PYTHON) sh deploy/system.sh

demo: install
	$(BIN)/mesh demo $(ARGS)

test: system install lint unit wheel

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

unit: install
	$(BIN)/python -m pytest $(ARGS)

wheel: install
	$(BIN)/python -m tests.wheel

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
