# `make demo` and `make test` need nothing but python3 and make: they create their own
# environments. The lanes of `make test` are `env_list` in setup.cfg.

PYTHON ?= python3
# Lanes that run at the same time.
JOBS ?= 2
# A folder with photographs for the demo: docs/demo.md.
DATA ?=
# More arguments for pytest, as in `make test-keras2-addons ARGS="-k groups -x"`.
ARGS ?=

VENV := .venv
DEV_VENV := .venv-dev
TOX_VENV := .venv-tox
TOX ?= $(TOX_VENV)/bin/tox

.PHONY: help demo dev check test test-zoo lint docs dist clean

help:
	@echo "make demo         four ways to fine-tune, compared on handwritten digits"
	@echo "make demo DATA=FOLDER   the same on photographs: docs/demo.md"
	@echo "make dev          an environment to work in, .venv-dev"
	@echo "make check        lint and the fast tests in .venv-dev, one case each"
	@echo "make test         the whole suite in every lane of setup.cfg"
	@echo "make test-LANE    the suite in one lane, such as make test-keras3-jax"
	@echo "make test-zoo     published models, in environments of their own"
	@echo "make lint         Ruff, mypy, import-linter"
	@echo "make docs         the site, in site/"
	@echo "make dist         sdist and wheel, in dist/, checked as for a release"
	@echo "make clean        remove environments, caches and builds"

demo: $(VENV)/.demo
	@TF_CPP_MIN_LOG_LEVEL=3 $(VENV)/bin/python examples/fine_tune.py \
	  $(if $(DATA),--data "$(DATA)")

# The environment of a lane, so that what the shell has set changes no result.
check: $(DEV_VENV)/.dev
	@. $(DEV_VENV)/bin/activate && \
	ruff check && ruff format --check && mypy && lint-imports && \
	CUDA_VISIBLE_DEVICES=-1 KERAS_BACKEND=tensorflow TF_USE_LEGACY_KERAS=0 \
	KERAS_HOME=$(abspath $(DEV_VENV))/keras MPLBACKEND=agg TF_CPP_MIN_LOG_LEVEL=2 \
	KERAS_FINETUNE_LANE=check python -m pytest -m "not slow" $(ARGS)

test: $(TOX)
	@$(PYTHON) tools/run_lanes.py --tox $(abspath $(TOX)) --jobs $(JOBS) -- $(ARGS)

test-%: $(TOX)
	@$(PYTHON) tools/run_lanes.py --tox $(abspath $(TOX)) $* -- $(ARGS)

# One after the other: together they would take 20 GB at the same time.
test-zoo: $(TOX) | tests/zoo
	@$(PYTHON) tools/run_lanes.py --tox $(abspath $(TOX)) --jobs 1 zoo zoo-keras2 -- $(ARGS)

lint: $(TOX)
	@$(TOX) run -q -e lint

docs: $(TOX)
	@$(TOX) run -q -e docs
	@echo "open site/index.html, or with search: $(PYTHON) -m http.server --directory site"

# `make dist TAG=v1.2.3` asks for all that a release with this tag needs.
dist: $(TOX)
	@rm -rf build dist
	@$(TOX) run -q -e dist -- $(if $(TAG),--tag $(TAG))

dev: $(DEV_VENV)/.dev
	@echo ". $(DEV_VENV)/bin/activate, then: pytest"

clean:
	rm -rf $(VENV) $(DEV_VENV) $(TOX_VENV) .tox build dist site *.egg-info .*_cache

# TensorFlow has no wheels for every Python; the first of these that is there.
define create_venv
	@for candidate in "$(PYTHON)" python3.13 python3.12 python3.11 python3.10; do \
	  if $$candidate -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 14))' \
	      2>/dev/null; then chosen=$$candidate; break; fi; \
	done; \
	if [ -z "$$chosen" ]; then \
	  echo "This needs Python 3.10 to 3.13, for which TensorFlow is built." >&2; \
	  exit 1; \
	fi; \
	echo "Creating $(1) with $$($$chosen --version)" && \
	$$chosen -m venv $(1)
endef

$(VENV)/.demo: setup.cfg pyproject.toml
	$(call create_venv,$(VENV))
	$(VENV)/bin/python -m pip install --quiet --editable ".[demo]"
	@touch $@

$(DEV_VENV)/.dev: setup.cfg pyproject.toml
	$(call create_venv,$(DEV_VENV))
	$(DEV_VENV)/bin/python -m pip install --quiet --editable ".[dev,tensorflow]"
	@touch $@

$(TOX_VENV)/bin/tox: setup.cfg
	$(PYTHON) -m venv $(TOX_VENV)
	$(TOX_VENV)/bin/python -m pip install --quiet "tox>=4.24"
	@touch $@
