# `make demo` and `make test` need nothing but python3 and make: they create their own
# environments. The lanes of `make test` are `env_list` in setup.cfg.

PYTHON ?= python3
# Lanes that run at the same time.
JOBS ?= 2
# More arguments for pytest, as in `make test-keras2-addons ARGS="-k groups -x"`.
ARGS ?=

VENV := .venv
TOX_VENV := .venv-tox
TOX ?= $(TOX_VENV)/bin/tox

.PHONY: help demo test lint clean

help:
	@echo "make demo         fine-tune on handwritten digits, in .venv"
	@echo "make test         the whole suite in every lane of setup.cfg"
	@echo "make test-LANE    the suite in one lane, such as make test-keras3-jax"
	@echo "make lint         Ruff, mypy, import-linter"
	@echo "make clean        remove environments, caches and builds"

demo: $(VENV)/.demo
	TF_CPP_MIN_LOG_LEVEL=2 $(VENV)/bin/python examples/fine_tune_digits.py

test: $(TOX)
	@$(PYTHON) tools/run_lanes.py --tox $(abspath $(TOX)) --jobs $(JOBS) -- $(ARGS)

test-%: $(TOX)
	@$(PYTHON) tools/run_lanes.py --tox $(abspath $(TOX)) $* -- $(ARGS)

lint: $(TOX)
	@$(TOX) run -q -e lint

clean:
	rm -rf $(VENV) $(TOX_VENV) .tox build dist *.egg-info .*_cache

# TensorFlow has no wheels for every Python; the first of these that is there.
$(VENV)/.demo: setup.cfg pyproject.toml
	@for candidate in "$(PYTHON)" python3.13 python3.12 python3.11 python3.10; do \
	  if $$candidate -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 14))' \
	      2>/dev/null; then chosen=$$candidate; break; fi; \
	done; \
	if [ -z "$$chosen" ]; then \
	  echo "make demo needs Python 3.10 to 3.13, for which TensorFlow is built." >&2; \
	  exit 1; \
	fi; \
	echo "Creating $(VENV) with $$($$chosen --version)" && \
	$$chosen -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --editable ".[demo]"
	@touch $@

$(TOX_VENV)/bin/tox: setup.cfg
	$(PYTHON) -m venv $(TOX_VENV)
	$(TOX_VENV)/bin/python -m pip install --quiet "tox>=4.24"
	@touch $@
