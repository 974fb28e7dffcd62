# One virtual environment serves every target; it is installed again only when pyproject.toml or constraints.txt changed.

PYTHON ?= python3
VENV ?= .venv
DEMO_OUT ?= runs/demo
DEMO_FLAGS ?= --trials 4 --rows 120 --folds 1
BENCH_FLAGS ?= --quick
PYTEST_FLAGS ?=

BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
INSTALLED_DOCS := $(VENV)/.installed-docs
CODE := src tests docs $(wildcard bench)
BENCHES := $(basename $(notdir $(shell grep -l -e '"--quick"' bench/*.py)))

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: demo test check fix bench docs clean help

demo: $(INSTALLED)  ## compare on the embedded model and examples/support, write runs/demo/report.html
	rm -rf $(DEMO_OUT)
	$(BIN)/tunewright compare examples/support/messages.csv --descriptions examples/support/descriptions.yaml \
		--out $(DEMO_OUT) $(DEMO_FLAGS)

test: $(INSTALLED)  ## the whole test suite; the fast tests alone: .venv/bin/pytest
	$(BIN)/python -m pytest -m "" $(PYTEST_FLAGS)

check: $(INSTALLED)  ## format, lint, types, layers, generated pages; changes nothing
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/ruff check $(CODE)
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python docs/generate.py --check

fix: $(INSTALLED)  ## format, mend what ruff can mend, write the generated pages
	$(BIN)/ruff check --fix $(CODE)
	$(BIN)/ruff format $(CODE)
	$(BIN)/python docs/generate.py

bench: $(INSTALLED)  ## every program in bench/; the full measurements: make bench BENCH_FLAGS=
	set -e; for program in $(BENCHES); do echo "== $$program"; $(BIN)/python -m "bench.$$program" $(BENCH_FLAGS); done

docs: $(INSTALLED_DOCS)  ## the pages in site/
	$(BIN)/python docs/generate.py --check
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

clean:  ## remove what can be made again; keeps runs/ and the virtual environment
	rm -rf site build dist src/*.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find $(CODE) -type d -name __pycache__ -prune -exec rm -rf {} +

help:  ## this list
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 15

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed. Got %d.%d. Use make PYTHON=python3.12" % sys.version_info[:2] if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)

$(INSTALLED): pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[demo,dev]'
	@touch $@

$(INSTALLED_DOCS): pyproject.toml constraints.txt | $(INSTALLED)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[demo,dev,docs]'
	@touch $@
