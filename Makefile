# The commands of this repository. They need Python 3.11 or newer and make; all else they fetch
# into .venv, once, and again only when pyproject.toml changes.

VENV := .venv
BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/python -m pip install -qq --disable-pip-version-check
TEST_SECONDS ?= 1800
SECONDS ?= 300
# An interrupt lets pytest take its servers down; a minute later it has no more say.
HARD_LIMIT := $(if $(shell command -v timeout),timeout --signal=INT --kill-after=60 $(TEST_SECONDS))
# Whole files side by side: the tests of one often share a database.
PARALLEL ?= --numprocesses auto --dist loadfile
# mypy and ruff refuse folders that hold no Python, or are not there.
CHECKED := src tests $(foreach folder,benchmarks examples,$(if $(wildcard \
	$(folder)/*.py $(folder)/*/*.py),$(folder)))

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help demo test lint format types bench chaos soak build clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/.installed ## Show jobbus at work (options in DEMO_ARGS)
	@$(BIN)/jobbus demo $(DEMO_ARGS)

test: $(VENV)/.installed-dev ## Run all tests against real servers (options in PYTEST_ARGS)
	@$(HARD_LIMIT) $(BIN)/python -m pytest $(PARALLEL) $(PYTEST_ARGS)

lint: $(VENV)/.installed-dev ## Check style and formatting
	@$(BIN)/ruff check --quiet $(CHECKED) && $(BIN)/ruff format --quiet --check $(CHECKED)

format: $(VENV)/.installed-dev ## Mend what lint can mend by itself
	@$(BIN)/ruff check --quiet --fix $(CHECKED); $(BIN)/ruff format $(CHECKED)

types: $(VENV)/.installed-dev ## Check types, strictly
	@$(BIN)/mypy $(CHECKED)

bench: $(VENV)/.installed-bench ## Measure jobbus beside the raw driver and peers (options in BENCH_ARGS)
	@$(BIN)/python -m benchmarks $(BENCH_ARGS)

chaos: $(VENV)/.installed-dev ## Attack running workers, for minutes (options in CHAOS_ARGS)
	@$(BIN)/python -m tests.chaos $(CHAOS_ARGS)

soak: $(VENV)/.installed-dev ## See what grows under long load (SECONDS=300, SOAK_ARGS)
	@$(BIN)/python -m tests.chaos.soak --seconds $(SECONDS) $(SOAK_ARGS)

build: $(VENV)/.installed-dev ## Make the wheel and the source archive, in dist/
	@rm -rf dist && $(BIN)/python -m build

clean: ## Remove everything that make made, .venv included
	@rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	@find src tests -name __pycache__ -type d -prune -exec rm -rf {} +

# Editable, so that what is edited is what runs.
$(VENV)/.installed: pyproject.toml $(VENV)/pyvenv.cfg
	@echo "installing jobbus into $(VENV)" >&2
	@$(PIP_INSTALL) --editable '.[postgres]'
	@touch $@

$(VENV)/.installed-dev: pyproject.toml $(VENV)/pyvenv.cfg
	@echo "installing jobbus and the tools for its tests into $(VENV)" >&2
	@$(PIP_INSTALL) --editable '.[dev]'
	@touch $@ $(VENV)/.installed

$(VENV)/.installed-bench: pyproject.toml $(VENV)/pyvenv.cfg
	@echo "installing jobbus and its peers into $(VENV)" >&2
	@$(PIP_INSTALL) --editable '.[postgres,sqs,bench]'
	@touch $@ $(VENV)/.installed

$(VENV)/pyvenv.cfg:
	@found=; old=; \
	for name in $(PYTHON) python3 python3.13 python3.12 python3.11; do \
		command -v "$$name" >/dev/null || continue; \
		"$$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
			old="$$old $$("$$name" --version 2>/dev/null)"; continue; }; \
		found="$$name"; \
		"$$name" -c 'import ensurepip, venv' 2>/dev/null || continue; \
		exec "$$name" -m venv $(VENV); \
	done; \
	if [ -n "$$found" ]; then \
		echo "$$found has no venv module: install it (on Debian: apt-get install python3-venv)"; \
	else \
		echo "jobbus needs Python 3.11 or newer; found:$${old:- none}"; \
		echo "If there is one elsewhere, name it: make PYTHON=/path/to/python3"; \
	fi >&2; exit 1
