# Distributed streaming.
bench-dist: $(STAMPS)/package $(STAMPS)/bench $(STAMPS)/system-test  ## Ranks that share the reading, against the original; writes benchmarks/results
	@$(PY) -m benchmarks.dist $(ARGS)
	@$(PY) -m benchmarks.dist_model

.PHONY: bench-dist

SEEDS ?= 1000
test-delays: $(STAMPS)/package $(STAMPS)/dev  ## Ranks that are late at random, SEEDS loads (1000) by each way of sharing
	@DELAY_SEEDS=$(SEEDS) $(PY) -m pytest tests/python/distributed/test_delays.py $(ARGS)

.PHONY: test-delays
