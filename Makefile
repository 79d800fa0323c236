# make reproduce   set up, run the tiny profile offline, leave reports/tiny/index.html
# make test        set up, run every test
# make test-lowest the same tests, without the notebooks, on the lowest versions that pyproject.toml allows
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
LOCK := requirements.lock
BIN := $(VENV)/bin

.PHONY: setup reproduce test test-lowest lint clean

setup: $(VENV)/.installed

$(VENV)/.installed: $(LOCK) pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r $(LOCK)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

reproduce: setup
	$(BIN)/gemma-encoder reproduce --profile tiny

test: setup lint
	$(BIN)/python -m pytest -n 2 --dist loadfile tests
	$(BIN)/python tests/quick_notebooks.py reports/quick
	PYTHONPATH=$(CURDIR)/tests/offline HF_HUB_OFFLINE=1 $(BIN)/python -m pytest --nbval --nbval-current-env --nbval-sanitize-with tests/nbval.cfg --nbval-cell-timeout 900 reports/quick

test-lowest:
	$(MAKE) setup VENV=.venv-lowest LOCK=requirements.lowest
	.venv-lowest/bin/python -m pytest -n 2 --dist loadfile tests

lint: setup
	$(BIN)/ruff check --quiet .
	$(BIN)/ruff format --quiet --check .

clean:
	rm -rf $(VENV) .venv-lowest reports/*/
