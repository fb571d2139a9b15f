# `make demo` and `make test` need nothing but Python >= 3.11 with pip: each makes the
# virtual environment in $(VENV), installs what it needs, and reuses it afterwards.

PYTHON ?= python3
VENV ?= .venv
PROMPT ?= a red mushroom
WORKDIR ?= runs/demo

BIN := $(VENV)/bin
RUN := $(VENV)/.installed
DEV := $(VENV)/.installed-dev
BENCH := $(VENV)/.installed-bench
DOCS := $(VENV)/.installed-docs
DECLARED := setup.cfg pyproject.toml
CODE := vsd_jax configs tests $(wildcard benchmarks tools)

.DEFAULT_GOAL := help
.PHONY: help demo test lint format docs bench clean

help:
	@echo "make demo     make a 3D object from a text (PROMPT=\"a blue car\" for another)"
	@echo "make test     check style, then run all tests"
	@echo "make lint     check style only"
	@echo "make format   rewrite the code in the project's style"
	@echo "make docs     build the documents and the API reference as a site, in site/"
	@echo "make bench    compare the speed of the scene with torch (installs torch)"
	@echo "make clean    remove $(VENV), builds and caches; runs/ stays"

demo: $(RUN)
	$(BIN)/python -m vsd_jax.main --config=configs/refined.py \
	  --config.prompt="$(PROMPT)" --workdir="$(WORKDIR)" \
	  --config.nerf.log.inside=False --config.nerf.export.texture_size=0
	@echo
	@echo "Open $(WORKDIR)/report.html in a browser: it shows all that was made."
	@echo "The mesh and the turntable lie in $(WORKDIR)/refine, what VSD made in $(WORKDIR)/nerf."

test: lint
	$(BIN)/python -m pytest --numprocesses=auto --maxprocesses=4 --dist=worksteal

lint: $(DEV)
	$(BIN)/ruff check $(CODE)
	$(BIN)/ruff format --check $(CODE)

format: $(DEV)
	$(BIN)/ruff check --fix $(CODE)
	$(BIN)/ruff format $(CODE)

docs: $(DOCS)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --clean
	@echo "Open site/index.html in a browser."

bench: $(BENCH)
	OMP_WAIT_POLICY=passive $(BIN)/python -m benchmarks.nerf

clean:
	rm -rf $(VENV) build dist site *.egg-info .pytest_cache .ruff_cache
	find $(CODE) -name __pycache__ -type d -prune -exec rm -rf {} +

# Some systems ship Python without ensurepip: then pip of the base Python serves.
$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "vsd_jax needs Python 3.11 or newer: make PYTHON=/path/to/python3.11 ..."; \
	    exit 1; }
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
	  $(PYTHON) -m venv --without-pip $(VENV) && \
	  $(PYTHON) -m pip --python $(BIN)/python install --quiet pip; }

$(RUN): $(DECLARED) | $(BIN)/python
	@echo "Installing vsd_jax into $(VENV): some minutes, once."
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

$(DEV): $(DECLARED) | $(BIN)/python
	@echo "Installing vsd_jax and its tests' tools into $(VENV): some minutes, once."
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	@touch $(RUN) $@

$(DOCS): $(DECLARED) | $(BIN)/python
	@echo "Installing vsd_jax and what builds its documents into $(VENV)."
	$(BIN)/python -m pip install --quiet --editable ".[docs]"
	@touch $(RUN) $@

$(BENCH): $(DECLARED) | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable ".[bench]"
	@touch $(RUN) $@
