# One command per chore; CI calls the same. `make demo` and `make test` are all that anyone needs to type.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TORCH := 2.13.0
CPU_INDEX := https://download.pytorch.org/whl/cpu
PIP := $(BIN)/pip --disable-pip-version-check install --quiet

.PHONY: setup demo test lint bench protos schema

setup: $(VENV)/.installed

$(VENV)/.installed: $(VENV)/.demo-installed
	@echo "setup: installing the extra dev, for lint, test and bench"
	$(PIP) --editable '.[cpu,examples,dev]'
	@touch $@

# A machine without a GPU gets a CPU build of torch where one can be had: among the indexes that pip is set up with, else on
# PyTorch's own. PyPI's Linux build comes last, since it brings several GB of CUDA libraries.
$(VENV)/.demo-installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	@if command -v nvidia-smi >/dev/null 2>&1; then \
	  echo "setup: a GPU is here; installing torch $(TORCH) with CUDA (several GB)"; \
	elif $(PIP) torch==$(TORCH)+cpu 2>/dev/null; then \
	  echo "setup: installed the CPU build of torch $(TORCH) (about 200 MB)"; \
	elif $(PIP) --timeout 15 --retries 0 --extra-index-url $(CPU_INDEX) torch==$(TORCH)+cpu 2>/dev/null; then \
	  echo "setup: installed the CPU build of torch $(TORCH) from PyTorch's index (about 200 MB)"; \
	else \
	  echo "setup: no CPU build of torch $(TORCH) can be had; pip now downloads the default build (several GB on Linux)"; \
	fi
	@echo "setup: installing proveserve with its extras cpu and examples"
	$(PIP) --editable '.[cpu,examples]'
	@touch $@

# digits comes first: it can be served while sentiment is measured.
demo: $(VENV)/.demo-installed
	$(BIN)/optimize export --budget budgets.toml

# Most tests wait for processes that they start: three at once keep two cores busy. Those that measure time then run alone.
test: setup
	status=0; \
	$(BIN)/pytest -n 3 --no-loadscope-reorder -m 'not slow and not alone' || status=$$?; \
	$(BIN)/pytest -m 'not slow and alone' || status=$$?; \
	exit $$status

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: setup
	$(BIN)/python -m tests.benchmarks

protos: setup
	$(BIN)/python -m protos.generate

schema: setup
	$(BIN)/python -c 'import sys; from optimize.manifest import json_schema; sys.stdout.buffer.write(json_schema())' > docs/manifest.schema.json
