# make install | demo | test | lint | format | docs | figures | bench. Every target makes what it needs; nothing is done twice.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
OUT ?= runs/demo
# Bytecode now, not in every process later where PYTHONDONTWRITEBYTECODE is set.
UV := $(BIN)/uv pip install --python $(BIN)/python --quiet --compile-bytecode

.PHONY: install demo test lint format docs figures bench clean

install: $(VENV)/.installed
	@echo "denoisezoo is in $(VENV). Next: source $(VENV)/bin/activate && denoisezoo train --config digits/ddpm"

$(BIN)/uv:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet uv

$(VENV)/.installed: pyproject.toml | $(BIN)/uv
	@echo "Installing denoisezoo and its packages, torch among them, into $(VENV): minutes, depending on the network"
	$(UV) --editable .
	@touch $@

$(VENV)/.installed-features: $(VENV)/.installed
	$(UV) --editable '.[features]'
	@touch $@

$(VENV)/.installed-test: pyproject.toml | $(BIN)/uv
	$(UV) --editable '.[test]'
	@touch $@ $(VENV)/.installed

$(VENV)/.installed-docs: pyproject.toml | $(BIN)/uv
	$(UV) --editable '.[docs]'
	@touch $@

demo: $(VENV)/.installed-features
	$(BIN)/denoisezoo compare digits/ddpm digits/ddpmpp digits/ncsnpp digits/adm --seeds 0,1,2 \
		--budget images=25600 --sampler dpmpp_2m --steps 15 --num 1000 --features pixels+efflite0 \
		--title 'Four denoisers on digits' --out $(OUT)

test: $(VENV)/.installed-test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal --ignore tests/device
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal tests/device

lint: $(VENV)/.installed-test
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

format: $(VENV)/.installed-test
	$(BIN)/ruff check --fix . && $(BIN)/ruff format .

# The site, links checked; the notices are about future versions of the tools.
docs: $(VENV)/.installed-docs
	OMP_NUM_THREADS=1 NO_MKDOCS_2_WARNING=1 DISABLE_MKDOCS_2_WARNING=true $(BIN)/mkdocs build --quiet

figures: $(VENV)/.installed-docs
	OMP_NUM_THREADS=1 $(BIN)/python docs/figures.py

bench: $(VENV)/.installed-test
	$(BIN)/python benchmarks/peers.py --csv results/peers_cpu.csv

clean:
	rm -rf $(VENV) site .pytest_cache .mypy_cache .ruff_cache
