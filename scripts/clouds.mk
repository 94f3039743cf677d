bench-clouds: bench-setup $(STAMPS)/dev  ## gs://, az:// and https://: compared with s3://, and Azurite; writes benchmarks/results
	@cmake --build --preset plain --target raw_socket -- --quiet
	@$(PY) -m benchmarks.clouds $(ARGS)

.PHONY: bench-clouds
