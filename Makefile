# make demo: the whole job on the embedded dataset. make test: lint, types, tests. Both set everything up first.
PYTHON ?= python3
EXTRAS ?= train,dicom,notebook,dev
VENV := .venv
BIN := $(VENV)/bin
comma := ,
READY := $(VENV)/.ready-$(subst $(comma),-,$(EXTRAS))

.PHONY: demo test lint types docs clean

demo: $(READY)
	$(BIN)/melanoma demo

test: lint types
	$(BIN)/pytest

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/mypy

# what was tested is what is installed: constraints.txt pins every package
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; name one with make PYTHON=python3.12")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=24"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[$(EXTRAS)]"
	@rm -f $(VENV)/.ready-*
	@touch $@

docs: $(READY)
	$(BIN)/python docs/generate.py

clean:
	rm -rf $(VENV) build *.egg-info
