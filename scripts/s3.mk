bench-s3: bench-setup $(STAMPS)/dev  ## S3 from nginx and Ceph on loopback, and over a long link
	@cmake --build --preset plain --target raw_socket -- --quiet
	@$(PY) -m benchmarks.s3 $(ARGS)

.PHONY: bench-s3
