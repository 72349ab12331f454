# Two commands: `make train` and `make test`.
PYTHON ?= python3
BIN := .venv/bin
WORKDIR ?= runs/digits_vit
# Tests run in this many processes; each takes up to 4 GB.
WORKERS ?= 2
PYTEST := $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

.PHONY: train test test-all lint docs install clean

# A small ViT on the handwritten digits of scikit-learn: a few minutes on two CPU cores.
train: .venv/installed
	$(BIN)/python -m research.data prepare digits
	$(BIN)/python -m experiments.image_classification.main \
	  --config=configs/image_classification/digits_vit.py:cpu --workdir=$(WORKDIR)

test: .venv/installed lint
	$(PYTEST) -m "not long"

test-all: .venv/installed lint
	$(PYTEST)

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m tests.words
	$(BIN)/python -m tests.links
	$(BIN)/pyright

# The pages of docs/ and the API reference, as a site in runs/site.
docs: .venv/installed
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e ".[docs]"
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

install: .venv/installed

# The pinned versions are for Python 3.11 and 3.12; see constraints.txt.
.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; v = sys.version_info[:2]; (3, 11) <= v <= (3, 12) or sys.exit("error: Python 3.11 or 3.12 is needed, this is %d.%d; run make PYTHON=python3.11" % v)'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e ".[test]"
	touch $@

clean:
	rm -rf .venv .pytest_cache .ruff_cache
