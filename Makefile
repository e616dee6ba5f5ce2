# Every task of the project. Needs Rust, make and a C compiler; `make help` lists what else a task needs.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules

CARGO ?= cargo
PYTHON ?= python3
TOOLS := $(CURDIR)/target/tools
VENV := $(TOOLS)/venv
TEMPLATE_VENV := $(TOOLS)/template
DENY_VERSION := 0.20.2

HOST_ARCH := $(patsubst aarch64,arm64,$(shell uname -m))
# Of the Lambda package: x86_64 or arm64. arm64 is the one to deploy: the template's default, and cheaper.
ARCH ?= $(HOST_ARCH)
TARGET_x86_64 := x86_64-unknown-linux-gnu
TARGET_arm64 := aarch64-unknown-linux-gnu
TARGET = $(TARGET_$(ARCH))
# Built by the cross-build tool: always for the other processor, and on a machine whose C library is too new.
CROSS ?= $(if $(filter $(ARCH),$(HOST_ARCH)),,1)
GLIBC := 2.34
# A function for each, and its features beside the default none.
PACKAGES := classifier gate dashboard
PACKAGE_FILES := $(PACKAGES:%=target/lambda/%.zip)
# Whoever builds it, wherever: the same bytes, and nobody's folders in them.
PACKAGE_RUSTFLAGS := --remap-path-prefix=$(or $(CARGO_HOME),$(HOME)/.cargo)=/cargo --remap-path-prefix=$(CURDIR)=/giemsa

.PHONY: help
help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | awk -F'\t' '{printf "make %-11s %s\n", $$1, $$2}'

.PHONY: demo
demo: assets ## upload sample-images/ to a stack in a temporary folder and print what became of each
	$(CARGO) run --bin giemsa -- demo

.PHONY: up
up: assets ## start the local stack and keep it, data in .giemsa/
	$(CARGO) run --bin giemsa -- up

.PHONY: test
test: assets tools-or-skip issuer-or-skip ## all tests but test-models (those with aws, cargo lambda, schemathesis and the browser: also python3 with venv, npm)
	@aws='$(VENV)/bin/aws'; lambda='$(VENV)/bin/cargo-lambda'; schemathesis='$(VENV)/bin/schemathesis'; \
	playwright='$(VENV)/bin/playwright'; \
	if [ -x "$$aws" ]; then export GIEMSA_TEST_AWS="$$aws"; fi; \
	if [ -x "$$lambda" ]; then export GIEMSA_TEST_CARGO_LAMBDA="$$lambda"; fi; \
	if [ -x '$(VENV)/bin/python' ]; then export GIEMSA_TEST_PYTHON='$(VENV)/bin/python'; fi; \
	if [ -x "$$schemathesis" ]; then export GIEMSA_TEST_SCHEMATHESIS="$$schemathesis"; fi; \
	if [ -x "$$playwright" ]; then export GIEMSA_TEST_PYTHON='$(VENV)/bin/python'; fi; \
	if [ -f '$(TOOLS)/issuer/.installed' ]; then export GIEMSA_TEST_ISSUER='$(TOOLS)/issuer'; fi; \
	CARGO='$(CARGO)' tests/run

# As they are in README.md; the tests make them of sample images.
PICTURES := slides slide image review models
.PHONY: screenshots
screenshots: assets tools-or-skip ## the pictures of the dashboard in docs/images/, by the tests in a browser (chromium)
	rm -rf target/screenshots
	GIEMSA_TEST_PYTHON='$(VENV)/bin/python' $(CARGO) test --test browser -- --nocapture
	@mkdir -p docs/images
	cp $(PICTURES:%=target/screenshots/%.png) docs/images/

FUZZ_RUNS ?= 20000
FUZZ_SECONDS ?= 600
FUZZ_TARGETS := decode event metadata
# On stable Rust: without a sanitizer, which safe code hardly needs. What is found goes beside the corpus, not into it.
FUZZ_FLAGS = -max_total_time=$(FUZZ_SECONDS) -max_len=8192 -timeout=25 -rss_limit_mb=600 -malloc_limit_mb=64 \
	-print_final_stats=1
.PHONY: fuzz
fuzz: ## mutated model files; and, with cargo-fuzz, FUZZ_SECONDS each of images, events and metadata
	GIEMSA_FUZZ_RUNS=$(FUZZ_RUNS) GIEMSA_FUZZ_SEED=$${GIEMSA_FUZZ_SEED:-$$(date +%s)000} \
		$(CARGO) test --test model_fuzz -- --nocapture
	@if $(CARGO) fuzz --version >/dev/null 2>&1; then \
		for target in $(FUZZ_TARGETS); do \
			mkdir -p "target/fuzz/$$target"; \
			(set -x; $(CARGO) fuzz run --sanitizer none "$$target" "target/fuzz/$$target" "fuzz/corpus/$$target" \
				-- $(FUZZ_FLAGS)); \
		done; \
	else \
		echo 'SKIPPED: images, events and metadata: cargo-fuzz is not installed (cargo install cargo-fuzz)' >&2; \
	fi

# The references that decoders and the engine are compared with.
PARITY_VENV := $(TOOLS)/parity
.PHONY: engine-parity
engine-parity: $(PARITY_VENV)/.installed ## the scores of each operator beside onnxruntime's (python3 with venv, and PyPI)
	$(CARGO) build --example run_network
	$(PARITY_VENV)/bin/python -B tests/parity/engine.py --runner target/debug/examples/run_network

HOSTILE_FILES ?= 10000
.PHONY: hostile
hostile: ## HOSTILE_FILES damaged images and all made to do harm, these also through the classifier in 512 MB
	GIEMSA_HOSTILE_EVERY=1 GIEMSA_HOSTILE_FILES=$(HOSTILE_FILES) GIEMSA_HOSTILE_SEED=$${GIEMSA_HOSTILE_SEED:-0} \
		$(CARGO) test --test hostile -- --nocapture --test-threads 1
	GIEMSA_HOSTILE_EVERY=1 $(CARGO) test --test memory_limit -- --nocapture
	GIEMSA_CORPUS_RUNS=$(HOSTILE_FILES) $(CARGO) test --test fuzz_corpus -- --nocapture

COUNT ?= 4000
.PHONY: decode-parity
decode-parity: $(PARITY_VENV)/.installed ## COUNT image files made here, decoded by Giemsa and by other libraries, compared pixel by pixel
	$(CARGO) build --example decode_dump
	$(PARITY_VENV)/bin/python tests/parity/decode.py --dump target/debug/examples/decode_dump --count $(COUNT)

$(PARITY_VENV)/.installed: tests/parity/requirements.txt
	@rm -rf $(PARITY_VENV)
	$(PYTHON) -m venv $(PARITY_VENV)
	$(PARITY_VENV)/bin/pip install --quiet --disable-pip-version-check -r tests/parity/requirements.txt
	@touch $@

SOAK_UPLOADS ?= 10000
.PHONY: soak
soak: ## the big proof: SOAK_UPLOADS uploads under faults of all kinds, compared with a run without; each run begins elsewhere
	GIEMSA_SOAK_UPLOADS=$(SOAK_UPLOADS) GIEMSA_SOAK_SEED=$${GIEMSA_SOAK_SEED:-$$(date +%s)} \
		$(CARGO) test --test soak -- --nocapture

.PHONY: check
check: $(TOOLS)/bin/cargo-deny assets tools-or-skip ## format, lints, documentation, licences, page, template
	$(CARGO) fmt --all --check
	$(CARGO) clippy --all-targets -- -D warnings
	$(CARGO) clippy --package package --package engine-timer --package dashboard-load -- -D warnings
	$(CARGO) clippy --lib --bins -- -D warnings -D clippy::unwrap_used
	$(CARGO) clippy --no-default-features --bin classifier --bin gate -- -D warnings
	$(CARGO) clippy --no-default-features --features dashboard --bin dashboard -- -D warnings
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --no-deps
	$(TOOLS)/bin/cargo-deny check bans licenses sources
	@if [ -x '$(VENV)/bin/cfn-lint' ]; then set -x; '$(VENV)/bin/cfn-lint' infra/template.yaml; fi
	@$(MAKE) --no-print-directory check-page check-template

# SAM's own validation, and security rules; what is excepted says why in the template's Metadata. Neither asks AWS anything,
# nor does the stack that moto makes of it, on which the functions run as cargo builds them for all other tests.
.PHONY: check-template
check-template: assets template-tools-or-skip tools-or-skip
	@if [ -f '$(TEMPLATE_VENV)/.installed' ]; then set -x; \
		SAM_CLI_TELEMETRY=0 AWS_DEFAULT_REGION=eu-central-1 '$(TEMPLATE_VENV)/bin/sam' validate --lint --template infra/template.yaml; \
		'$(TEMPLATE_VENV)/bin/checkov' --quiet --compact --skip-download --framework cloudformation --file infra/template.yaml; fi
	@if [ -f '$(TEMPLATE_VENV)/.installed' ] && [ -x '$(VENV)/bin/aws' ]; then set -x; \
		$(CARGO) build --bins; \
		GIEMSA_TEST_AWS='$(VENV)/bin/aws' '$(TEMPLATE_VENV)/bin/python' -B -m pytest -p no:cacheprovider -q --tb=short tests/aws; fi

# The dashboard apart: with its features the others would be other bytes.
LAMBDA_BUILDS := --no-default-features --bin classifier --bin gate
DASHBOARD_BUILD := --no-default-features --features dashboard --bin dashboard
.PHONY: package
package: assets ## target/lambda/*.zip of the functions for ARCH=x86_64 or arm64 (default: this machine's)
	@case '$(ARCH)' in x86_64|arm64) ;; *) \
		echo "make package: ARCH is '$(ARCH)'; expected x86_64 or arm64" >&2; exit 2;; esac
	@mkdir -p target/lambda; rm -f $(PACKAGE_FILES)
ifeq ($(CROSS),1)
	@if [ ! -d "$$(rustc --print target-libdir --target $(TARGET))" ]; then \
		printf '%s\n' "make package: Rust's standard library for $(TARGET) is not installed. Install it with" \
			'    rustup target add $(TARGET)' >&2; exit 1; fi
	@$(MAKE) --no-print-directory $(VENV)/.cross || { printf '%s\n' \
		'make package: the cross-build tool could not be installed. Install python3 with venv, or put it there yourself:' \
		'    pip install cargo-lambda' >&2; exit 1; }
	for build in '$(LAMBDA_BUILDS)' '$(DASHBOARD_BUILD)'; do \
		PATH="$(VENV)/bin:$$PATH" RUSTFLAGS='$(PACKAGE_RUSTFLAGS)' cargo-lambda lambda build --release $$build \
			--target $(TARGET).$(GLIBC); done
	@for name in $(PACKAGES); do cp target/lambda/$$name/bootstrap target/lambda/$$name-bootstrap; done
else
	for build in '$(LAMBDA_BUILDS)' '$(DASHBOARD_BUILD)'; do \
		RUSTFLAGS='$(PACKAGE_RUSTFLAGS)' $(CARGO) build --release --locked $$build; done
	@for name in $(PACKAGES); do cp target/release/$$name target/lambda/$$name-bootstrap; done
endif
	@for name in $(PACKAGES); do $(CARGO) run --quiet --locked --package package -- \
		target/lambda/$$name-bootstrap target/lambda/$$name.zip $(ARCH); done

# The client that the tests use, where there is no other.
DEPLOY_AWS = $(or $(AWS),$(shell command -v aws),$(VENV)/bin/aws)
# What the template deploys by default, whatever this machine is.
DEPLOY_ARCH := $(if $(filter-out file,$(origin ARCH)),$(ARCH),arm64)
.PHONY: deploy
deploy: ## the stack in your AWS account, after it was asked; STACK=giemsa PARAMETERS='AlarmEmail=…' (docs/deploy.md)
	@[ -n "$(AWS)$$(command -v aws)" ] || $(MAKE) --no-print-directory $(VENV)/.installed
	@$(MAKE) --no-print-directory package ARCH=$(DEPLOY_ARCH)
	@AWS='$(DEPLOY_AWS)' ARCH='$(DEPLOY_ARCH)' STACK='$(STACK)' PARAMETERS='$(PARAMETERS)' infra/deploy

.PHONY: destroy
destroy: ## remove the stack; what holds data only after it was asked for twice
	@[ -n "$(AWS)$$(command -v aws)" ] || $(MAKE) --no-print-directory $(VENV)/.installed
	@AWS='$(DEPLOY_AWS)' STACK='$(STACK)' infra/destroy

.PHONY: bench
bench: ## speed of the stages, and end to end against a Python handler (python3 with venv)
	$(CARGO) bench
	@if [ -x benches/run ]; then benches/run; fi

SHARED_CELLS := ../shared/data/thin-smear
TRAINING := target/training
DRAWN := $(TRAINING)/drawn
MODEL_PYTHON = $(TRAINING)/venv/bin/python
.PHONY: model
model: ## train models/thin-smear.onnx again (python3 with venv, the labelled cells, an hour)
	@if [ ! -f $(SHARED_CELLS)/manifest.csv ]; then \
		echo 'SKIPPED make model: the labelled cells are not part of this repository; expected $(SHARED_CELLS)/manifest.csv' >&2; \
	else $(MAKE) --no-print-directory train-model; fi

# Drawing is arithmetic for minutes, hence optimised; the rest of the tree is not built anew for it.
.PHONY: train-model
train-model: $(TRAINING)/venv/.installed
	$(CARGO) rustc --example render_samples -- -C opt-level=3
	rm -rf $(DRAWN)
	target/debug/examples/render_samples training $(DRAWN)/cells --seed 1 --count 1600 & \
	target/debug/examples/render_samples outliers $(DRAWN)/outliers --seed 2 --count 240 && \
	target/debug/examples/render_samples outliers $(DRAWN)/outliers-test --seed 3 --count 60 && wait $$!
	$(CARGO) build --release --package engine-timer
	$(MODEL_PYTHON) models/train/candidates.py --timer target/release/engine-timer --out $(TRAINING)/candidates.json
	$(MODEL_PYTHON) models/train/train.py --data $(SHARED_CELLS) --drawn $(DRAWN) --out models/thin-smear.onnx \
		--report models/report --work $(TRAINING)/networks --candidates $(TRAINING)/candidates.json
	$(MODEL_PYTHON) models/train/check_samples.py --model models/thin-smear.onnx --samples sample-images

# For training, and for PyTorch in the tests. Apart from the other tools: it is large, and few need it.
$(TRAINING)/venv/.installed: models/requirements.txt
	@rm -rf $(TRAINING)/venv
	$(PYTHON) -m venv $(TRAINING)/venv
	$(TRAINING)/venv/bin/pip install --quiet --disable-pip-version-check -r models/requirements.txt
	@touch $@

# What the guide says to install for Keras; Pillow is for the tests.
KERAS_REQUIREMENTS := models/convert/requirements-keras.txt models/convert/requirements-onnx.txt
$(TRAINING)/keras/.installed: $(KERAS_REQUIREMENTS)
	@rm -rf $(TRAINING)/keras
	$(PYTHON) -m venv $(TRAINING)/keras
	$(TRAINING)/keras/bin/pip install --quiet --disable-pip-version-check -r models/convert/requirements-keras.txt pillow==13.0.0
	@touch $@

.PHONY: test-models
test-models: $(TRAINING)/keras/.installed $(TRAINING)/venv/.installed ## your own networks by the guide (python3 with venv; downloads several GB)
	GIEMSA_TEST_MODEL_PYTHON='$(CURDIR)/$(TRAINING)/keras/bin/python:$(CURDIR)/$(TRAINING)/venv/bin/python' \
		$(CARGO) test --test bring_your_own -- --nocapture

.PHONY: clean
clean: ## remove everything that was built (data in .giemsa/ stays)
	$(CARGO) clean

# The libraries with which the page shows large images and signs people in, in the versions and with the digests of the
# committed lock file. It runs no script of a package. Without them all is built the same, but for deep zoom and sign-in; in
# CI that is an error.
LIBRARY := web/library
PAGE_PACKAGES := web/package.json web/package-lock.json
NPM_CI = npm ci --ignore-scripts --no-audit --no-fund --loglevel=error \
	--fetch-retries=1 --fetch-retry-mintimeout=1000 --fetch-timeout=20000
.PHONY: assets
assets: ## take the libraries for deep zoom and sign-in into the binary (npm)
	@$(MAKE) --no-print-directory --silent $(LIBRARY)/.installed || { \
		echo 'SKIPPED: deep zoom of large images, and sign-in: openseadragon and oidc-client-ts could not be fetched; they need npm' \
			'and a package registry (Debian: apt-get install npm). The page has a simple zoom, and nobody can sign in.' >&2; \
		if [ "$${CI:-}" = true ]; then echo 'nothing is skipped with CI=true' >&2; exit 1; fi; }

# Cargo builds again when this folder changes.
$(LIBRARY)/.installed: $(PAGE_PACKAGES)
	@command -v npm >/dev/null
	@mkdir -p $(TOOLS)/library
	@cp $^ web/.npmrc $(TOOLS)/library/
	@cd $(TOOLS)/library && $(NPM_CI) --omit=dev >&2
	@cp $(TOOLS)/library/node_modules/openseadragon/LICENSE.txt $(LIBRARY)/openseadragon.LICENSE.txt
	@cp $(TOOLS)/library/node_modules/openseadragon/build/openseadragon/openseadragon.min.js $(LIBRARY)/
	@cp $(TOOLS)/library/node_modules/oidc-client-ts/LICENSE $(LIBRARY)/oidc-client-ts.LICENSE.txt
	@cp $(TOOLS)/library/node_modules/jwt-decode/LICENSE $(LIBRARY)/jwt-decode.LICENSE.txt
	@cp $(TOOLS)/library/node_modules/oidc-client-ts/dist/browser/oidc-client-ts.min.js $(LIBRARY)/
	@touch $@

# The page's own code, by the same lock file: types from JSDoc, and lints.
.PHONY: check-page
check-page: ## type-check and lint the page's JavaScript (npm)
	@if $(MAKE) --no-print-directory --silent $(TOOLS)/page/.installed; then set -x; \
		'$(TOOLS)/page/node_modules/.bin/tsc' --project web/jsconfig.json; \
		cp web/eslint.config.js $(TOOLS)/page/; \
		cd web && '$(TOOLS)/page/node_modules/.bin/eslint' --config '$(TOOLS)/page/eslint.config.js' --max-warnings 0 page; \
	else \
		echo 'SKIPPED: types and lints of the page (web/page): TypeScript and ESLint could not be fetched; they need npm' \
			'and a package registry (Debian: apt-get install npm)' >&2; \
		if [ "$${CI:-}" = true ]; then echo 'nothing is skipped with CI=true' >&2; exit 1; fi; \
	fi

$(TOOLS)/page/.installed: $(PAGE_PACKAGES)
	@command -v npm >/dev/null
	@mkdir -p $(TOOLS)/page
	@cp $^ web/.npmrc $(TOOLS)/page/
	@cd $(TOOLS)/page && $(NPM_CI) >&2
	@touch $@

# The issuer of OpenID Connect that the browser tests sign in at, as its lock file pins it.
ISSUER := tests/browser/issuer
.PHONY: issuer-or-skip
issuer-or-skip:
	@$(MAKE) --no-print-directory --silent $(TOOLS)/issuer/.installed || { \
		echo 'SKIPPED: the tests that sign in: oidc-provider could not be fetched; it needs npm and a package registry' \
			'(Debian: apt-get install npm)' >&2; \
		if [ "$${CI:-}" = true ]; then echo 'nothing is skipped with CI=true' >&2; exit 1; fi; }

$(TOOLS)/issuer/.installed: $(ISSUER)/package.json $(ISSUER)/package-lock.json
	@command -v npm >/dev/null
	@mkdir -p $(TOOLS)/issuer
	@cp $^ $(ISSUER)/.npmrc $(TOOLS)/issuer/
	@cd $(TOOLS)/issuer && $(NPM_CI) >&2
	@touch $@

# Python tools are for tests and checks only. Without Python they are missed loudly, and in CI it is an error.
.PHONY: tools-or-skip
tools-or-skip:
	@$(MAKE) --no-print-directory $(VENV)/.installed || { \
		echo 'SKIPPED: the tests and checks with aws (tests/aws too), cargo lambda, schemathesis and cfn-lint: their tools could not be installed;' \
			'they need python3 with venv (Debian: apt-get install python3-venv)' >&2; \
		if [ "$${CI:-}" = true ]; then echo 'nothing is skipped with CI=true' >&2; exit 1; fi; }

# The list is complete, hence --no-deps: cargo-lambda would bring a compiler that only a cross build needs.
$(VENV)/.installed: tests/requirements.txt
	@rm -rf $(VENV)
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check --no-deps -r tests/requirements.txt
	@touch $@

# Apart, as they ask for other versions of what the tests use; half a gigabyte.
.PHONY: template-tools-or-skip
template-tools-or-skip:
	@$(MAKE) --no-print-directory $(TEMPLATE_VENV)/.installed || { \
		echo 'SKIPPED: sam validate, checkov and the stack in moto (tests/aws): they could not be installed;' \
			'they need python3 with venv (Debian: apt-get install python3-venv)' >&2; \
		if [ "$${CI:-}" = true ]; then echo 'nothing is skipped with CI=true' >&2; exit 1; fi; }

$(TEMPLATE_VENV)/.installed: infra/requirements.txt
	@rm -rf $(TEMPLATE_VENV)
	$(PYTHON) -m venv $(TEMPLATE_VENV)
	$(TEMPLATE_VENV)/bin/pip install --quiet --disable-pip-version-check --no-deps -r infra/requirements.txt
	@touch $@

$(VENV)/.cross: $(VENV)/.installed
	$(VENV)/bin/pip install --quiet --disable-pip-version-check ziglang==0.17.1
	@touch $@

# Built once, for speed of building: it runs for seconds.
$(TOOLS)/bin/cargo-deny: Makefile
	CARGO_PROFILE_DEV_DEBUG=0 $(CARGO) install --quiet --locked --profile dev --root $(TOOLS) \
		--target-dir $(TOOLS)/build cargo-deny@$(DENY_VERSION)
	@rm -rf $(TOOLS)/build; touch $@
