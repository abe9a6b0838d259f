# The main targets are `make quickstart` and `make test`. Both first install into .venv, once.
PYTHON ?= python3
VENV   := .venv
RUN    := $(VENV)/bin/python
DONE   := $(VENV)/installed

.DEFAULT_GOAL := help
.PHONY: help install quickstart test test-slow test-browser test-demo test-labelling docs lint format pictures bench bench-gpu clean

help:  ## Show this list.
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1|/' | awk -F'|' '{printf "  make %-12s %s\n", $$1, $$2}'

install: $(DONE)  ## Install everything into .venv (the other targets do this automatically).

$(DONE): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: $$($(PYTHON) --version) found, Python 3.11 or newer wanted: type make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $(DONE)

quickstart: $(DONE)  ## Toy world to AP table: generate, cache, train, evaluate, write runs/quickstart/report.html.
	$(VENV)/bin/regionspot quickstart

# One process per core with one thread each: more threads would compete for the cores. Files run in
# order, with the longest tests first (tests/e2e, tests/faults). By default, xdist starts with the
# files that have the most tests, so that Ray's single long test would run alone at the end.
test: $(DONE)  ## Run the tests (a few minutes on 2 cores).
	OMP_NUM_THREADS=1 $(RUN) -m pytest --numprocesses auto --maxprocesses 8 --dist loadfile --no-loadscope-reorder

test-slow: $(DONE)  ## Run the tests that take longer: full-size models, whole runs.
	$(RUN) -m pytest -m slow

test-browser: $(DONE)  ## Open a report in headless Chromium and press its controls; needs Chromium.
	$(RUN) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[browser]'
	$(RUN) -m pytest -m browser tests/browser --ignore tests/browser/test_demo.py

# gradio needs an older Pillow than the one that is pinned, so it lies beside the environment.
test-demo: $(DONE)  ## Open the page of `regionspot demo` in headless Chromium; needs Chromium.
	@mkdir -p build
	@grep -v '^pillow==' constraints.txt > build/demo-constraints.txt
	$(RUN) -m pip install --quiet --disable-pip-version-check --upgrade --target build/demo \
	  --constraint build/demo-constraints.txt 'gradio>=6.14,<7' 'gradio_image_annotation>=0.5.6' playwright
	PYTHONPATH=build/demo $(RUN) -m pytest -m browser tests/browser/test_demo.py

# Both have many dependencies, some in other versions, so they lie in an environment of their own,
# which finds all else in ours.
test-labelling: $(DONE)  ## Hand regions to FiftyOne's and Label Studio's own packages.
	$(PYTHON) -m venv build/labelling
	build/labelling/bin/pip install --quiet --disable-pip-version-check fiftyone label-studio-sdk
	$(RUN) -c 'import site; print(*site.getsitepackages(), "$(CURDIR)/src", sep="\n")' > \
	  "$$(build/labelling/bin/python -c 'import site; print(site.getsitepackages()[0])')/ours.pth"
	build/labelling/bin/python -m pytest -m labelling tests/labelling

docs: $(DONE)  ## Build the documentation site, build/site/index.html; a broken link is an error.
	$(RUN) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[docs]'
	$(RUN) tools/docs_site.py build
	$(VENV)/bin/zensical build --clean --strict --config-file build/mkdocs.yml

lint: $(DONE)  ## Check style, types, layers and spelling.
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports
	$(VENV)/bin/codespell src tests benchmarks examples tools docs *.md *.py

format: $(DONE)  ## Fix style automatically.
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

pictures: quickstart  ## Update the README's picture from the quickstart's run.
	cp runs/quickstart/named_regions.jpg docs/images/named_regions.jpg

bench: quickstart  ## Run every benchmark; each prints a ratio to a named baseline or limit.
	@for script in benchmarks/*.py; do echo "== $$script"; $(RUN) $$script || exit 1; done

# The tests run even if the benchmarks fail: eight minutes in total, one of them for the tests.
bench-gpu: $(DONE)  ## Run all GPU benchmarks (one table) and GPU tests; needs a CUDA device.
	@status=0; $(RUN) benchmarks/on_gpu.py --device cuda --budget_s 420 || status=1; \
	  $(RUN) -m pytest -m gpu || status=1; exit $$status

clean:  ## Remove build and test leftovers (keeps .venv and runs/).
	rm -rf build .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
