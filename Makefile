# What people type. Needs Rust, make and a C compiler; `make help` lists what else a target needs.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules

CARGO ?= cargo
PYTHON ?= python3
TOOLS := $(CURDIR)/target/tools
VENV := $(TOOLS)/venv
DENY_VERSION := 0.20.2

# Says that $(1) is skipped and that it needs $(2). Nothing may be skipped with CI=true.
define skip
{ echo 'SKIPPED: $(strip $(1)): needs $(strip $(2))' >&2; \
	if [ "$${CI:-}" = true ]; then echo 'nothing is skipped with CI=true' >&2; exit 1; fi; }
endef

# Makes the optional tools of the stamp file $(1). Without them $(2) is skipped; they need $(3).
define optional
@$(MAKE) --no-print-directory --silent $(1) || $(call skip,$(2),$(3))
endef

# A Python environment in the folder of the target, with the arguments $(1) of pip.
define venv
@echo 'installing $< into $(@D)'
@rm -rf $(@D)
$(PYTHON) -m venv $(@D)
$(@D)/bin/pip install --quiet --disable-pip-version-check $(1)
@touch $@
endef

# Packages of npm in the folder $(2), as the lock file in $(1) pins them, with the options $(3). No script of a package runs.
define npm
@command -v npm >/dev/null || { echo 'npm is not installed' >&2; exit 1; }
@mkdir -p $(2)
@cp $(1)/package.json $(1)/package-lock.json $(1)/.npmrc $(2)/
@cd $(2) && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error $(3) \
	--fetch-retries=1 --fetch-retry-mintimeout=1000 --fetch-timeout=20000 >&2
endef

NPM := npm and a package registry (Debian: apt-get install npm)
PYTHON_VENV := python3 with venv and a package index (Debian: apt-get install python3-venv)

.PHONY: help
help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | awk -F'\t' '{printf "make %-14s %s\n", $$1, $$2}'

.PHONY: demo
demo: assets ## upload sample-images/ to a stack in a temporary folder and print the result of each
	$(CARGO) run --bin giemsa -- demo

.PHONY: up
up: assets ## start the local stack; it keeps its data in .giemsa/
	$(CARGO) run --bin giemsa -- up

# What the tests of tests/ start; cargo builds programs of other packages for no test.
.PHONY: bins
bins:
	$(CARGO) build --bins

.PHONY: test
test: assets test-tools issuer ## all tests but test-models (all of them need python3 with venv, npm and chromium)
	@CARGO='$(CARGO)' tests/run

.PHONY: lint
lint: assets ## format and lints
	$(CARGO) fmt --all --check
	$(CARGO) clippy --all-targets -- -D warnings
	$(CARGO) clippy --package package --package engine-timer --package dashboard-load -- -D warnings
	$(CARGO) clippy --lib --bins -- -D warnings -D clippy::unwrap_used

.PHONY: check
check: lint $(TOOLS)/bin/cargo-deny test-tools ## lint, and documentation, licences, the page, the template
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --no-deps
	$(TOOLS)/bin/cargo-deny check bans licenses sources
	@if [ -x '$(VENV)/bin/cfn-lint' ]; then set -x; '$(VENV)/bin/cfn-lint' infra/template.yaml; fi
	@$(MAKE) --no-print-directory check-page check-template

.PHONY: bench
bench: ## speed of the stages, and end to end against a Python handler (python3 with venv)
	$(CARGO) bench --bench stages
	benches/run

.PHONY: clean
clean: ## remove everything that was built (data in .giemsa/ stays)
	$(CARGO) clean

# Built without optimisation, because it runs for seconds.
$(TOOLS)/bin/cargo-deny: Makefile
	CARGO_PROFILE_DEV_DEBUG=0 $(CARGO) install --quiet --locked --profile dev --root $(TOOLS) \
		--target-dir $(TOOLS)/build cargo-deny@$(DENY_VERSION)
	@rm -rf $(TOOLS)/build; touch $@

include web/Makefile tests/Makefile infra/Makefile models/Makefile
