# `make demo` and `make test` set up everything that they need; see README.md.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UV := $(BIN)/uv
CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/icestream
TOOLS := jaeger grpcurl ghz helm compose-spec
PROTOS := $(wildcard protos/icestream/v1/*.proto)
TESTS ?= tests

.PHONY: help
help:  ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# --- installing -------------------------------------------------------------------------------------

$(UV): scripts/bootstrap.sh requirements/uv.txt
	scripts/bootstrap.sh $(PYTHON) $(VENV)
	@touch $@

# Of the simulation, and of features from its events and from messages.
COMPILE := from icestream.physics import detector, features, simulation; \
	icecube = detector.icecube86(); \
	features.pulse_features(simulation.simulate_event(icecube, seed=1, index=0).pulses, icecube); \
	features.compile_for_messages()

# The project itself is installed in place, so that only a change of its dependencies installs again.
define install_locked
	$(UV) pip install --quiet --python $(BIN)/python --no-deps --require-hashes -r $(1)
	$(UV) pip install --quiet --python $(BIN)/python --no-deps --require-hashes -r requirements/tritonserver.txt
	$(UV) pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation -e .
	@echo "compiling kernels (once, half a minute) ..."
	$(BIN)/python -c '$(COMPILE)'
endef

$(VENV)/.installed: $(UV) requirements/local.txt requirements/tritonserver.txt pyproject.toml
	@echo "installing what the local stack needs into $(VENV) ..."
	$(call install_locked,requirements/local.txt)
	@touch $@

$(VENV)/.installed-dev: $(UV) requirements/dev.txt requirements/tritonserver.txt pyproject.toml
	@echo "installing what tests and training need into $(VENV) (3 GB, most of it torch) ..."
	$(call install_locked,requirements/dev.txt)
	@touch $@ $(VENV)/.installed

.PHONY: install
install: $(VENV)/.installed  ## Install what the local stack needs into .venv

.PHONY: install-dev
install-dev: $(VENV)/.installed-dev  ## Install also what tests, lint and training need

# Go programs that no Python package brings: a real Jaeger, and clients of gRPC that nobody here wrote.
.PHONY: tools
tools: $(UV)  ## Build Go programs into the cache (10 minutes, once), get Prometheus; as root also PostgreSQL and Redis
	for tool in $(TOOLS); do scripts/build_tool.sh $$tool $(CACHE)/bin $(BIN); done
	scripts/install_postgresql.sh
	scripts/install_redis.sh $(CACHE)/bin
	scripts/install_prometheus.sh $(CACHE)/bin

# --- using ------------------------------------------------------------------------------------------

.PHONY: demo
demo: $(VENV)/.installed  ## Run the main job on a local stack of its own and show what came out
	$(BIN)/icestream demo

# --- checking ---------------------------------------------------------------------------------------

.PHONY: test
test: $(VENV)/.installed-dev tools  ## Run all tests
	$(BIN)/pytest $(TESTS)

.PHONY: lint
lint: $(VENV)/.installed-dev  ## Check style, types, layers and protos
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/buf lint
	$(BIN)/buf format --diff --exit-code
	$(BIN)/buf breaking --against protos/released.binpb

.PHONY: proto
proto: $(VENV)/.installed-dev  ## Generate icestream/v1 from protos/
	$(BIN)/python -m grpc_tools.protoc -Iprotos --python_out=. --pyi_out=. $(PROTOS)
	$(BIN)/python -m grpc_tools.protoc -Iprotos --grpc_python_out=. $(shell grep -l '^service ' $(PROTOS))

.PHONY: proto-check
proto-check: proto  ## Check that icestream/v1 is what protos/ generates
	git diff --exit-code --stat -- icestream/v1

.PHONY: dashboards
dashboards: $(VENV)/.installed-dev  ## Generate Grafana's dashboards, deploy/grafana/dashboards
	$(BIN)/python -m dashboards

# --- maintaining ------------------------------------------------------------------------------------

.PHONY: lock
lock: $(UV)  ## Pin all requirements anew, within the bounds of pyproject.toml
	scripts/lock.sh $(UV)

.PHONY: clean
clean:  ## Remove everything that was installed or generated here; the cache of tools stays
	rm -rf $(VENV) .icestream .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
