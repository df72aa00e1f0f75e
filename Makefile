# `make demo` and `make test` work from a bare checkout: they make their own environment in .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SOURCES := pyproject.toml $(wildcard csrc/*.py csrc/*/*.cpp csrc/*/*.h torch_sparsedrop/ops/layout.py)

.PHONY: demo test test-all lint bench clean

demo: $(VENV)/ready
	$(BIN)/python examples/demo/train.py

test: lint
	$(BIN)/python -m pytest -m "not full"

test-all: lint
	$(BIN)/python -m pytest

lint: $(VENV)/ready
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

bench: $(VENV)/ready
	$(BIN)/python -m torch_sparsedrop bench

# Torch comes first and pinned: whatever depends on it must not bring another one.
$(VENV)/torch:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet torch==2.13.0
	touch $@

# Here a failing build of the native part is an error; for users the plain-PyTorch reference would serve.
$(VENV)/ready: $(VENV)/torch $(SOURCES)
	SPARSEDROP_BUILD=1 $(BIN)/python -m pip install --quiet --editable ".[bench,test,dev]"
	$(BIN)/python -m pip install --quiet --no-deps timm==1.0.31  # it asks for torchvision, which would bring its own torch
	touch $@

clean:
	rm -rf $(VENV) build *.egg-info
