# The two commands of the README: `make demo` and `make test`. Each makes .venv on first use and reuses it after.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PEERS := .venv-peers
PEERS_READY := $(PEERS)/.ready
BENCH ?=

.PHONY: demo test lint experiments bench foreign clean

demo: $(READY)
	$(BIN)/skipway compare --out runs/demo

# a process a core, each with one thread: what the tests run is too small to share
test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto

lint: $(READY)
	$(BIN)/ruff check src tests bench examples scripts
	$(BIN)/ruff format --check src tests bench examples scripts
	$(BIN)/mypy

# ten experiments of the papers; stopped, they go on where they were
experiments: $(READY)
	$(BIN)/python examples/experiments

# more than an hour and a half on two quiet cores; BENCH="--quick" only shows that all works, BENCH="--only dense,fold" runs a part
bench: $(PEERS_READY)
	$(PEERS)/bin/python bench $(BENCH)

# the same outputs as torchvision and timm, with their weights
foreign: $(PEERS_READY)
	test -d $(PEERS)/foreign || $(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps \
		--target $(PEERS)/foreign -r bench/foreign.txt
	PYTHONPATH=src:$(PEERS)/foreign $(PEERS)/bin/python bench/foreign.py

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("skipway needs Python 3.11 or newer, this is " + sys.version.split()[0] + ": make PYTHON=python3.12 ...") if sys.version_info < (3, 11) else None'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

$(PEERS_READY): bench/peers.txt pyproject.toml
	test -x $(PEERS)/bin/python || $(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check -r bench/peers.txt
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	@touch $@

clean:
	rm -rf $(VENV) $(PEERS) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
