# Two commands are enough: `make run` and `make test`. Both set up .venv first.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

.PHONY: run test test-real soak check fix bench lock clean

run: $(READY)            ## the main job: the standard library's source → a served language model
	$(BIN)/fullbore run recipes/python-lm.toml

test: $(READY)           ## everything that needs only Python and a compiler (≤ 20 minutes on 2 cores)
	$(BIN)/python -m pytest -m "not real and not soak"

test-real: $(READY)      ## what needs Debian's or npm's packages: installs them, then runs the recipes on them
	./recipes/install-debian.sh
	$(BIN)/python recipes/fetch.py all
	$(BIN)/python -m pytest -m real

soak: $(READY)           ## the long counts; results go to benchmarks/results
	$(BIN)/python -m pytest -m soak

check: $(READY)          ## what a commit must pass (≤ 2 minutes): format, lint, types, architecture, fast tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -m "not slow and not real and not soak"

fix: $(READY)            ## format and mend what can be mended by machine
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(READY)          ## the figures that are claimed; results go to benchmarks/results
	$(BIN)/uv pip install --system-certs --quiet --python $(BIN)/python --no-deps -r benchmarks/requirements.txt
	$(BIN)/python benchmarks/run.py

lock:                    ## resolve the dependencies anew (torch and what it brings stay out: pip installs its CPU build)
	$(BIN)/uv pip compile --system-certs pyproject.toml --group dev --python-version 3.11 --generate-hashes \
	  --override requirements.override --no-header -q -o requirements.lock

clean:                   ## remove the environment and all runs
	rm -rf $(VENV) runs

$(READY): requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check torch==2.13.0 uv==0.13.9
	$(BIN)/uv pip install --system-certs --quiet --python $(BIN)/python --no-deps --require-hashes -r requirements.lock
	$(BIN)/uv pip install --system-certs --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	touch $(READY)
