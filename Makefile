# `make help` lists what there is. PYTHON is the interpreter that makes .venv.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
LATEST := .venv-latest
# For `make test-latest`: the newest torch that pyproject.toml allows, or for example TORCH=torch==2.13.0.
TORCH ?= $(shell sed -nE 's/^  "(torch>[^"]*)",$$/\1/p' pyproject.toml)
export HF_HUB_OFFLINE ?= 1

.PHONY: help demo test test-fast test-all test-latest fuzz style bench bench-memory check-forms gpu-smoke pictures reference clean

help: ## List the targets.
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/:[^#]*##/\t/' | expand -t 12

# torch goes first: alone, pip takes the build that fits this machine; later nothing pulls another.
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[demo,dev]'
	touch $(STAMP)

demo: $(STAMP) ## The whole road on a CPU with a small real model.
	$(BIN)/slds demo

test: style ## Style, types and every test that belongs to a change.
	$(BIN)/python -m pytest -m "not slow" -n 2

test-fast: $(STAMP) ## Unit tests only, under a minute.
	$(BIN)/python -m pytest tests/unit -m "not slow" -n 2

test-all: style ## Everything, the slow suites too.
	SLDS_FULL=1 $(BIN)/python -m pytest -n 2

test-latest: ## `make test` with the newest versions that pyproject.toml allows, in .venv-latest; a table of them.
	$(PYTHON) -m venv --clear $(LATEST)
	$(LATEST)/bin/python -m pip install --quiet --disable-pip-version-check '$(TORCH)'
	$(LATEST)/bin/python -m pip install --quiet --disable-pip-version-check -e '.[demo,dev]'
	$(LATEST)/bin/python scripts/test_latest.py

fuzz: $(STAMP) ## Over ten thousand random configs, rows, templates, weights, answers and citations; their number is printed.
	SLDS_FULL=1 $(BIN)/python -m pytest -n 2 -m hypothesis

style: $(STAMP) ## Lint, format check and types.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(STAMP) ## Benchmarks: both sides alternate, a ratio is printed.
	$(BIN)/python scripts/demo_model.py
	$(BIN)/python benchmarks/completion_loss.py
	$(BIN)/python benchmarks/startup.py
	$(BIN)/python benchmarks/prepare.py
	$(BIN)/python benchmarks/train.py
	$(BIN)/python benchmarks/overflow.py

bench-memory: $(STAMP) ## The memory estimate against counted steps and against published peaks.
	SLDS_FULL=1 $(BIN)/python -m pytest -q -s -m "not slow" tests/unit/memory/test_memory_truth.py
	$(BIN)/python benchmarks/published_peaks.py
	$(BIN)/python benchmarks/estimators.py

check-forms: $(STAMP) ## Count forms_by_type again with the installed libraries, and say whether they changed.
	$(BIN)/python scripts/memory_forms.py --check

gpu-smoke: $(STAMP) ## What only a GPU can show, in one report of under eight minutes: gpu_report.md.
	$(BIN)/python -m scripts.gpu_smoke

pictures: $(STAMP) ## Draw the README's example and pictures from what `make demo` made.
	$(BIN)/python scripts/pictures.py

reference: $(STAMP) ## Write the options' tables in docs/ out of the app.
	$(BIN)/python scripts/reference.py

clean: ## Remove what was built and run; the demo model stays in .cache.
	rm -rf .venv $(LATEST) build dist demo_output .pytest_cache .mypy_cache .ruff_cache .hypothesis
