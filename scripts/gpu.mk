# GPU destinations.
bench-gpu: $(STAMPS)/package $(STAMPS)/bench $(STAMPS)/system-test  ## Loads to one GPU: every loader, every row (ARGS=--standin: a dry run)
	@$(CONFIGURE) plain >/dev/null
	@cmake --build --preset plain --target raw_reader -- --quiet
	@$(PY) -m benchmarks.gpu $(ARGS)

bench-overlap: $(STAMPS)/package $(STAMPS)/bench  ## Shows that reading, copying and consuming overlap (no GPU needed)
	@$(PY) -m benchmarks.overlap $(ARGS)

test-gpu: $(STAMPS)/package $(STAMPS)/dev  ## Tests on a GPU; on the stand-in driver where there is none
	@$(PY) -m pytest -m gpu tests/python/cuda $(ARGS)

test-builds: $(STAMPS)/system-test $(STAMPS)/package $(STAMPS)/dev  ## Builds without object storage, and with unpacked -dev packages
	@scripts/test_builds.sh

.PHONY: bench-gpu bench-overlap test-gpu test-builds
