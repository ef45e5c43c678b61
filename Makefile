# Two commands do all the set-up on a fresh machine with Python 3.11 to 3.13, pip and make:
#   make demo    run the main job on the digits that ship with scikit-learn
#   make test    run every test
# Each makes the virtual environment .venv and installs the pinned versions of constraints.txt into it.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test install clean

demo: install
	$(BIN)/naa-fast demo --out naa-demo

test: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal

install: $(VENV)/installed

$(VENV)/installed: pyproject.toml constraints.txt tools/setup.sh
	sh tools/setup.sh "$(PYTHON)" "$(VENV)"

clean:
	rm -rf $(VENV) naa-demo naa-report build *.egg-info
