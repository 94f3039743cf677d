##@ Consumers and packages
# The pyproject's testpaths leave this suite out: it downloads a gigabyte.
test-consumers: $(STAMPS)/package $(STAMPS)/dev  ## vLLM's and SGLang's own loaders on this package (downloads their wheels)
	@$(PY) -m pytest tests/consumers -o timeout=1200 $(ARGS)

.PHONY: test-consumers
