test-examples: $(STAMPS)/dev $(STAMPS)/system-test  ## examples/c and examples/cpp against an installed copy of the library
	@$(CCACHE) cmake --preset plain >/dev/null
	@cmake --build --preset plain --target streamer -- --quiet
	@$(PY) -m scripts.test_examples build/plain

.PHONY: test-examples
