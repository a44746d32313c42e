# Moorage's everyday commands; `make` lists them.
.DEFAULT_GOAL := help
STAMP := .venv/.installed
BIN := .venv/bin

.PHONY: help setup docker image demo test check clean

help: ## list the targets
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

setup: $(STAMP) ## make .venv with the locked packages (again only when the lock changes)

$(STAMP): requirements.lock pyproject.toml
	python3 -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed")'
	test -x $(BIN)/python || python3 -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	touch $(STAMP)

docker: ## have a running Docker engine
	scripts/ensure-docker.sh

image: docker ## have the images that the demo and the tests run
	scripts/ensure-image.sh

demo: setup docker image ## a real session from submit to clean-up
	$(BIN)/python scripts/demo.py

test: setup docker image ## all tests, in two halves beside each other
	scripts/test.sh

check: setup ## format, lint, types, import rules
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

clean: ## remove caches and the demo's data; .venv stays
	rm -rf .cache .moorage .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache dist
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
