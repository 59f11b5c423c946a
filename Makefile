# Each target sets up what it needs on a machine that has Python 3.11 or newer, pip, git and make.

SECONDS ?=
SEED ?= 7
SEEDS ?= 1
MINUTES ?= 10
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO_DIR ?= var/demo

.PHONY: help demo drill drill-broken sim soak test check bench bench-peers format clean

help:
	@echo "make demo [SECONDS=30]  four wind turbines, end to end, on this machine"
	@echo "make drill [SECONDS=180 SEED=7]  break every part at random moments, then check the books"
	@echo "make drill-broken       drills of code that is broken on purpose: each must fail"
	@echo "make sim [SEED=7 SEEDS=100]  the same code over a simulated network, disk and ClickHouse"
	@echo "make soak [MINUTES=10]  constant load; memory, files, parts and latency as a picture"
	@echo "make test               the test suite, with real brokers, a real engine and real kills"
	@echo "make check              ruff, mypy, import layers"
	@echo "make bench              speed and size as ratios, as a table and as JSON"
	@echo "make bench-peers        the same work by others, beside Fieldline (installs them into var/peers)"
	@echo "make clean              remove what these targets made"

# pandas comes with chdb; it is used by tests of what users do with it.
$(BIN)/.run: pyproject.toml constraints.txt
	@echo "Setting up $(VENV) (a minute the first time) ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || \
	  { $(PYTHON) -m pip install --quiet --user virtualenv && $(PYTHON) -m virtualenv --quiet $(VENV); }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[edge,cloud,web,devices]'
	@touch $@

$(BIN)/.dev: $(BIN)/.run
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[edge,cloud,web,devices,dev]'
	@touch $@

demo: $(BIN)/.run
	@$(BIN)/fieldline demo --dir $(DEMO_DIR) $(if $(SECONDS),--seconds $(SECONDS))

drill: $(BIN)/.run
	@./tests/install-tools || true
	@$(BIN)/fieldline drill $(if $(SECONDS),--seconds $(SECONDS)) --seed $(SEED)

test: $(BIN)/.dev
	@./tests/install-tools
	@$(BIN)/python -m pytest --numprocesses 2 --dist loadfile

drill-broken: $(BIN)/.dev
	@./tests/install-tools
	@$(BIN)/python -m tests.broken

sim: $(BIN)/.dev
	@$(BIN)/python -m tests.sim --seed $(SEED) --seeds $(SEEDS)

soak: $(BIN)/.dev
	@./tests/install-tools || true
	@$(BIN)/python -m bench.soak --minutes $(MINUTES)

check: $(BIN)/.dev
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

format: $(BIN)/.dev
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

bench: $(BIN)/.dev
	@./tests/install-tools
	@$(BIN)/python -m bench

bench-peers: $(BIN)/.dev
	@./tests/install-tools
	@$(BIN)/python -m bench.peers

clean:
	rm -rf $(VENV) var build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
