docs: $(STAMPS)/package  ## Rewrite docs/reference/environment.md from the table of settings
	@$(PY) -m scripts.environment_doc

.PHONY: docs
