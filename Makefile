# Needs Python 3.10 or newer, make and git; everything else goes into a virtual environment of its own.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: quickstart quickstart-detection quickstart-reid test test-families sweep-families lint clean
.DELETE_ON_ERROR:

quickstart: $(VENV)/.installed
	$(BIN)/python tools/quickstart.py

quickstart-detection: $(VENV)/.installed
	$(BIN)/python tools/quickstart.py detection

quickstart-reid: $(VENV)/.installed
	$(BIN)/python tools/quickstart.py reid

test: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder tests

# Families of mmpretrain and mmdet, one by one: too long for every run.
test-families: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile -m families tests

# Each family distilled with itself as teacher; goes on where it stopped. See docs/families.md.
sweep-families: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.sweep_families

lint: $(VENV)/.installed
	$(BIN)/ruff check kd_mm tools tests configs
	$(BIN)/ruff format --check kd_mm tools tests
	$(BIN)/mypy

$(VENV)/.installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed, $(PYTHON) is %d.%d" % sys.version_info[:2])'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) work_dirs build *.egg-info
