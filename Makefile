# `make demo` and `make test` each work on a fresh clone: they create the environment if it is missing.
PYTHON ?= python3
VENV ?= .venv
# Test files run side by side, each whole in one process; two are enough for most of the gain and fit 8 GiB.
WORKERS ?= 2
PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed

.PHONY: demo test lint types format environment clean

demo: $(STAMP)
	$(PY) -m orchestrator.sweep run demo --yes

test: $(STAMP)
	$(PY) -m pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder

lint: $(STAMP)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

types: $(STAMP)
	$(PY) -m mypy search_spaces trainables dashboards cluster orchestrator benchmarks

format: $(STAMP)
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

environment: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 11) else f"scalecurves needs Python 3.11 or newer, $(PYTHON) is {v.major}.{v.minor}; try: make demo PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --upgrade pip
	$(PY) -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $(STAMP)

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache
