# Distributed streaming.
bench-dist: $(STAMPS)/package $(STAMPS)/bench $(STAMPS)/system-test  ## Ranks that share the reading, against the original; writes benchmarks/results
	@$(PY) -m benchmarks.dist $(ARGS)
	@$(PY) -m benchmarks.dist_model

.PHONY: bench-dist
