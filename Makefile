# Everything works from a bare clone: what is missing is installed into .venv first.
PYTHON ?= python3
VENV ?= .venv
# More for pip, such as --index-url or --extra-index-url https://download.pytorch.org/whl/cpu
PIP_ARGS ?=
DEMO_ARGS ?=
# Test processes, one thread each; a number, or auto for one a core.
TEST_WORKERS ?= auto
TEST_ARGS ?=

BIN := $(VENV)/bin
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(TEST_WORKERS) --maxprocesses 4 --dist worksteal
INSTALLED := $(VENV)/.installed

# Threads that wait by spinning slow each other down where cores are few or shared.
export OMP_NUM_THREADS ?= 2
export OMP_WAIT_POLICY ?= PASSIVE

.PHONY: demo test test-all check clean

demo: $(INSTALLED)
	$(BIN)/dreampose demo $(DEMO_ARGS)

test: $(INSTALLED)
	$(PYTEST) -m "not slow" $(TEST_ARGS)

# One after another: the slow tests measure, kill and fill what they share.
test-all: $(INSTALLED)
	$(BIN)/python -m pytest $(TEST_ARGS)

check: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(PYTEST) -m "not slow" $(TEST_ARGS)

clean:
	rm -rf build dist dreampose-demo .pytest_cache .ruff_cache .mypy_cache
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or later is needed; choose one with PYTHON=..." if sys.version_info < (3, 11) else 0)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV); the first time takes a few minutes"
	$(BIN)/python -m pip install -q --disable-pip-version-check $(PIP_ARGS) -c constraints.txt -e '.[dev]'
	@touch $@
