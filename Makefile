# The commands of this project; `make` alone lists them.

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# The tools that load bundles: their own Python packages, and those of npm.
CONSUMERS := .venv-consumers
CODE := include dags plugins tests benchmarks docs/examples

# Tracing a model takes one core and half a GB; a file's tests stay together, since they share what they exported.
WORKERS ?= 2
# Each worker has its share of the cores: threads of one that wait, spinning, for those of another cost both twice the time.
CORES := $(shell getconf _NPROCESSORS_ONLN)
POOL = OMP_NUM_THREADS=$$(( $(CORES) > $(WORKERS) ? $(CORES) / $(WORKERS) : 1 )) \
	$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder

.DEFAULT_GOAL := help
.PHONY: help demo up down status stack install test test-fast test-consumers test-clusters test-gpu torture check fmt lint types architectures bench lock schemas env clean distclean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-15s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

demo: $(STAMP) ## Publish the demo fleet with Airflow, a local Hub and a local S3; then stop everything
	@$(BIN)/python -m onnx_fleet_demo demo

up: $(STAMP) ## Start the same services and leave them running; prints URL and login
	@$(BIN)/python -m onnx_fleet_demo up

down: ## Stop what `make up` started
	@if [ -x $(BIN)/python ]; then $(BIN)/python -m onnx_fleet_demo down; fi

status: ## Say what is running, and where
	@if [ -x $(BIN)/python ]; then $(BIN)/python -m onnx_fleet_demo status; else echo "not installed: run make demo"; fi

stack: $(STAMP) ## Run docker-compose.yaml's services without Docker until Ctrl+C (needs PostgreSQL and Redis)
	@$(BIN)/python -m onnx_fleet_demo.native_stack

test: $(STAMP) ## Run every test (WORKERS=1 for one at a time, PYTEST="-k name" for some)
	@$(POOL) $(PYTEST)

# The tests of what needs no torch; one that imports it fails here.
FAST := bundles store planning $(addprefix runs/,test_record.py test_run_report.py test_steps.py test_watch.py) \
	$(addprefix graphs/,test_comparison.py test_session.py test_text_inputs.py test_workloads.py) \
	$(addprefix measurement/,test_io_contract.py test_noise.py test_timing.py) \
	$(addprefix source/,test_hub_client.py test_poll.py test_repo_files.py test_repo_kind.py) \
	$(addprefix layouts/,test_pulled_layouts.py test_kserve_layout.py) \
	airflow/test_shards.py demo/test_hub_server.py

test-fast: $(STAMP) ## Run the tests of the rooms that need no torch, in less than a minute
	@$(POOL) --without-torch $(addprefix tests/,$(FAST)) $(PYTEST)

install: $(STAMP) $(CONSUMERS)/.installed $(CONSUMERS)/node/.installed ## Install everything that the other targets need (-j2 is faster)

test-consumers: $(STAMP) $(CONSUMERS)/.installed $(CONSUMERS)/node/.installed ## Load bundles in optimum, sentence-transformers, fastembed, transformers.js
	@CONSUMERS=$(CONSUMERS) $(BIN)/python -m pytest tests/consumers $(PYTEST)

test-clusters: $(STAMP) ## Run whole deployments without a shared disk, and kill parts of them (12 minutes)
	@$(BIN)/python -m pytest -m clusters tests/stack tests/deploy $(PYTEST)

torture: $(STAMP) ## Let stores fail in SCHEDULES=1000 ways from SEED=1 on, kill everybody everywhere, read for a minute (an hour)
	@PYTHONPATH=tests $(BIN)/python -m reliability --schedules $(SCHEDULES) --seed $(SEED) --jobs $$(( 2 * $(CORES) ))
	@$(BIN)/python -m pytest tests/reliability --torture --timeout 3600 $(PYTEST)

SCHEDULES ?= 1000
SEED ?= 1

test-gpu: ## Run the tests of a GPU worker, in the environment that is active (requirements-gpu.txt, pytest)
	@PYTHONPATH=include python -m pytest -m gpu tests/test_gpu.py $(PYTEST)

check: lint types test ## Everything that CI checks: format, lint, the directions of imports, strict types, tests

lint: $(STAMP)
	@$(BIN)/ruff format --check $(wildcard $(CODE))
	@$(BIN)/ruff check $(wildcard $(CODE))
	@$(BIN)/lint-imports --no-cache --no-logo

types: $(STAMP)
	@$(BIN)/mypy

fmt: $(STAMP) ## Format the code and sort its imports
	@$(BIN)/ruff check --fix-only --quiet $(wildcard $(CODE))
	@$(BIN)/ruff format $(wildcard $(CODE))

# Where `make lock` finds torch without CUDA; anything else comes from pip's configured index.
TORCH_CPU_INDEX ?= https://download.pytorch.org/whl/cpu
COMPILE = $(BIN)/pip-compile --quiet --no-header --strip-extras --annotation-style line \
	--no-emit-index-url --no-emit-find-links --unsafe-package pip
# torch's local suffix (+cpu) is a choice of index, not of version: the files say 2.13.0 and take any build of it.
PLAIN_TORCH = sed -i -E 's/^(torch==[0-9.]+)\+[a-z0-9.]+/\1/'

architectures: $(STAMP) ## Survey the whole zoo again, and write docs/architectures.md (hours; ROWS=vision, ROWS=--missing for some)
	@cd tests && ../$(BIN)/python -W ignore -m zoo --jobs $(WORKERS) $(ROWS)

bench: $(STAMP) $(CONSUMERS)/.installed ## Measure beside optimum, and write docs/benchmarks.md (hours; BENCH="--runs 1 bert" for some)
	@$(BIN)/python -m benchmarks $(BENCH)

lock: $(STAMP) ## Refresh the pinned files from requirements*.in (LOCK=--upgrade takes newer versions)
	$(COMPILE) $(LOCK) $(if $(TORCH_CPU_INDEX),--extra-index-url $(TORCH_CPU_INDEX)) \
		--output-file requirements.txt requirements.in
	@$(PLAIN_TORCH) requirements.txt
	$(COMPILE) $(LOCK) --constraint requirements.txt --output-file requirements-kubernetes.txt requirements-kubernetes.in
	@sed -i '/# via -c requirements.txt/d' requirements-kubernetes.txt  # it is installed beside one that has those
	$(COMPILE) $(LOCK) $(if $(TORCH_CPU_INDEX),--extra-index-url $(TORCH_CPU_INDEX)) \
		--constraint requirements.txt --output-file requirements-dev.txt requirements-dev.in
	@$(PLAIN_TORCH) requirements-dev.txt
	$(COMPILE) $(LOCK) $(if $(TORCH_CPU_INDEX),--extra-index-url $(TORCH_CPU_INDEX)) \
		--output-file requirements-consumers.txt requirements-consumers.in
	@$(PLAIN_TORCH) requirements-consumers.txt
	@grep -v '^onnxruntime==' requirements.in > .requirements-base.in
	$(COMPILE) $(LOCK) --constraint requirements.txt --output-file requirements-gpu.txt \
		.requirements-base.in requirements-gpu.in; rc=$$?; rm -f .requirements-base.in; exit $$rc
	@$(PLAIN_TORCH) requirements-gpu.txt; sed -i "s/\.requirements-base\.in/requirements.in/g" requirements-gpu.txt

schemas: $(STAMP) ## Refresh the JSON Schemas in docs/ from the types
	@$(BIN)/python -m onnx_fleet.schemas docs

env: ## Write .env for docker compose, with generated secrets; any Python 3.8 will do
	@PYTHONPATH=include python3 -m onnx_fleet_demo.compose_env

clean: down ## Remove what the demo wrote (var/) and the tools' caches
	@rm -rf var .pytest_cache .mypy_cache .ruff_cache build dist
	@find include dags plugins tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean ## Remove the virtual environments too
	@rm -rf $(VENV) $(CONSUMERS)

$(STAMP): requirements-dev.txt pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is not on PATH: install Python 3.11 (with venv),"; \
		echo "or name it: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || { \
		echo "$(PYTHON) is not Python 3.11, which the pinned packages are resolved for"; exit 1; }
	@echo "Installing the pinned packages into $(VENV) (once; some minutes, mostly download)"
	@start=$$(date +%s); set -e; \
		[ -x $(BIN)/python ] || $(PYTHON) -m venv $(VENV); \
		$(BIN)/pip install --quiet --disable-pip-version-check -r requirements-dev.txt; \
		$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .; \
		echo "Installed in $$(( $$(date +%s) - start )) s"
	@touch $@

$(CONSUMERS)/.installed: requirements-consumers.txt
	@echo "Installing the pinned consumers into $(CONSUMERS) (once)"
	@start=$$(date +%s); set -e; \
		[ -x $(CONSUMERS)/bin/python ] || $(PYTHON) -m venv $(CONSUMERS); \
		$(CONSUMERS)/bin/pip install --quiet --disable-pip-version-check -r requirements-consumers.txt; \
		echo "Installed in $$(( $$(date +%s) - start )) s"
	@touch $@

# Without npm nothing is stamped: the tests of transformers.js say that they are skipped, and the next call tries again.
$(CONSUMERS)/node/.installed: tests/consumers/package.json tests/consumers/package-lock.json | $(CONSUMERS)/.installed
	@mkdir -p $(@D); cp $^ $(@D); \
	if command -v npm >/dev/null; then \
		npm --prefix $(@D) ci --ignore-scripts --no-audit --no-fund --loglevel=error && touch $@; \
	else \
		echo "npm is not on PATH: transformers.js is left out (install Node 20 with npm to have it)"; \
	fi
