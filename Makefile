# Every target sets up its own environment in .venv; a second call reuses it. `make test` tests with what pip installs
# today, `make test-lowest` with the lowest versions that pyproject.toml allows, in .venv-lowest.
PYTHON ?= python3
BIN := .venv/bin
LOWEST := .venv-lowest/bin
CHECK_PYTHON = $(PYTHON) -c 'import sys; v = sys.version.split()[0]; sys.exit(sys.version_info < (3, 11) and f"posattn needs Python 3.11 or later, {sys.executable} is {v}; try make PYTHON=python3.11")'
INSTALL := pip install --quiet --disable-pip-version-check

.PHONY: demo docs test test-lowest lint clean

demo: .venv/installed
	$(BIN)/posattn run demo --overwrite

test: .venv/installed-dev
	$(BIN)/python -m pytest -n 2 --dist worksteal

test-lowest: .venv-lowest/installed
	$(LOWEST)/python -m pytest -n 2 --dist worksteal

docs: .venv/installed-dev
	$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going docs build/docs

lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf .venv .venv-lowest build dist *.egg-info

.venv/installed: pyproject.toml
	$(CHECK_PYTHON)
	$(PYTHON) -m venv .venv
	$(BIN)/python -m $(INSTALL) --editable .
	touch $@

.venv/installed-dev: .venv/installed
	$(BIN)/python -m $(INSTALL) --editable '.[dev]'
	touch $@

.venv-lowest/installed: pyproject.toml lowest.txt
	$(CHECK_PYTHON)
	$(PYTHON) -m venv --clear .venv-lowest
	$(LOWEST)/python -m $(INSTALL) --constraint lowest.txt --editable '.[test]'
	touch $@
