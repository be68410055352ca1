# Every target says how long it took. `make help` lists them.
SHELL := bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
LOCK := requirements/ci.txt
WORKERS ?= 2
# Minutes of the soak tests, of one kernel and of a fleet; CI runs 2 and 1.
SOAK_MINUTES ?= 60
SOAK_FLEET_MINUTES ?= 10
# Minutes of the storm of `make faults`, besides the other faults; FAULTS_SEED=N repeats one.
FAULTS_MINUTES ?= 1.5

# Some environments forbid to write bytecode; the many processes of a run would then compile everything, each for itself.
unexport PYTHONDONTWRITEBYTECODE

timed = trap 'printf "make %s: %s s\n" "$@" "$$SECONDS"' EXIT; set -eo pipefail;

.DEFAULT_GOAL := help
.PHONY: help setup run test test-unit test-integration test-jupyter test-browser faults soak check lint types format \
	bench bench-smoke thousand build clean lock

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' Makefile | column -t -s '|'

setup: $(VENV)/.stamp ## .venv/ from the lock file; needs neither root nor Node

$(VENV)/.stamp: $(LOCK) pyproject.toml
	@trap 'printf "make setup: %s s\n" "$$SECONDS"' EXIT; set -eo pipefail; \
	$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(v < (3, 11) and f"setup needs Python 3.11 or later, found {v[0]}.{v[1]}; name another one with make setup PYTHON=…")'; \
	$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo 'setup needs Python'"'"'s venv module; on Debian: apt install python3-venv' >&2; exit 1; }; \
	[ -x $(BIN)/python ] || { echo 'making $(VENV)'; $(PYTHON) -m venv $(VENV); }; \
	echo 'installing $(LOCK)'; \
	$(BIN)/python -m pip install --disable-pip-version-check --require-hashes -r $(LOCK); \
	echo 'installing llmspell'; \
	$(BIN)/python -m pip install --disable-pip-version-check --no-deps --no-build-isolation -e .; \
	touch $@

run: setup ## a fleet in the foreground, on 127.0.0.1:9550; Ctrl-C ends it and its kernels
	@$(timed) echo 'starting a fleet; the commands that it names are in $(BIN)'; \
	$(BIN)/llmspell fleet up

test: setup ## every test, and the coverage gate
	@$(timed) $(BIN)/coverage erase; \
	$(BIN)/coverage run -m pytest -n $(WORKERS) --dist loadfile; \
	$(BIN)/coverage combine -q; \
	$(BIN)/coverage report

test-unit: setup ## the tests that need no process, socket or browser
	@$(timed) $(BIN)/pytest -n $(WORKERS) --dist loadfile -m 'not integration and not jupyter and not browser and not slow'

test-integration: setup ## real processes, sockets and signals
	@$(timed) $(BIN)/pytest -n $(WORKERS) --dist loadfile -m 'integration and not slow'

test-jupyter: setup ## real Jupyter clients
	@$(timed) $(BIN)/pytest -n $(WORKERS) --dist loadfile -m jupyter

test-browser: setup ## JupyterLab in Chromium; names its screenshots
	@$(timed) $(BIN)/pytest -s -m browser

check: lint types test ## what CI checks

lint: setup ## ruff and the import contracts
	@$(timed) $(BIN)/ruff check .; $(BIN)/ruff format --check .; $(BIN)/lint-imports

types: setup ## mypy --strict
	@$(timed) $(BIN)/mypy

format: setup ## rewrite the sources in the house style
	@$(timed) $(BIN)/ruff check --fix .; $(BIN)/ruff format .

bench: setup ## speed and memory of kernels and fleets beside their peers; about twenty minutes
	@$(timed) $(BIN)/python -m bench

bench-smoke: setup ## the same in short: shows that all of it runs
	@$(timed) $(BIN)/python -m bench --smoke

thousand: setup ## 1,000 kernels on this machine at once, all of them answering
	@$(timed) $(BIN)/python -m bench --only fleet-thousand --system llmspell

faults: setup ## fleets that are broken on purpose, for FAULTS_MINUTES (1.5) and some; nothing is lost or run twice
	@$(timed) FAULTS_MINUTES=$(FAULTS_MINUTES) $(BIN)/pytest tests/faults -s

soak: setup ## SOAK_MINUTES (60) of work on one kernel, SOAK_FLEET_MINUTES (10) of kernels that come and go; memory stays flat
	@$(timed) SOAK_MINUTES=$(SOAK_MINUTES) SOAK_FLEET_MINUTES=$(SOAK_FLEET_MINUTES) \
	$(BIN)/pytest tests/soak -s --timeout $$(($(SOAK_MINUTES) * 60 + 120))

build: setup ## wheel and sdist in dist/
	@$(timed) rm -rf dist; $(BIN)/python -m build --no-isolation

clean: ## remove what was made, the environment too
	@rm -rf $(VENV) dist build htmlcov .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache \
		.coverage .coverage.*; \
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# One file for every Python from 3.11.0 on and every system; LOCK_OPTIONS=--upgrade takes newer versions.
lock: ## remake the lock file from pyproject.toml
	@$(timed) [ -x build/lock/bin/uv ] || { $(PYTHON) -m venv build/lock; build/lock/bin/python -m pip install -q uv; }; \
	build/lock/bin/uv pip compile --quiet --no-config --universal --python-version 3.11 --fork-strategy fewest \
		--generate-hashes --no-emit-index-url --custom-compile-command 'make lock' \
		--extra test --extra dev --extra bench $(LOCK_OPTIONS) --output-file $(LOCK) pyproject.toml
