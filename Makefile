# `make demo` and `make test` need python3 (with venv) and nothing else.
# With another interpreter: make test PYTHON=python3.13 VENV=/some/where

PYTHON = python3
VENV = .venv
BIN = $(VENV)/bin
PIP = -m pip --disable-pip-version-check -qq
RELEASE_VENV = .venv-publish
RELEASE = $(RELEASE_VENV)/bin
MUTANTS_VENV = .venv-mutants
TYPED = api_toolkit examples $(wildcard pdpyras*.py tools/*.py tools/bench/*.py)

# Run a tool, or say that this Python is too old to have it.
with = if [ -x $(BIN)/$(1) ]; then set -x; $(BIN)/$(2); \
	else echo '$@: skipped, $(1) needs a newer Python'; fi

.DEFAULT_GOAL = help
.NOTPARALLEL:
.PHONY: help demo test lint typecheck docs dist faults fuzz soak kill \
	mutants bench differential histories committed testpublish publish \
	clean

help:
	@echo 'make demo         a day of work against the sandbox'
	@echo 'make test         style, types, documentation, and the test suite'
	@echo 'make lint         style alone'
	@echo 'make typecheck    types alone'
	@echo 'make docs         build the documentation into docs/'
	@echo 'make faults       what comes of every fault of a connection'
	@echo 'make fuzz         100 000 answers that no server should give'
	@echo 'make soak         memory over 200 000 requests'
	@echo 'make kill         an outbox whose processes are killed 1 000 times'
	@echo 'make mutants      whether a test fails for each change of the code'
	@echo 'make bench        speed against bare requests, and its targets'
	@echo 'make differential reading ahead, on 2 000 random collections'
	@echo 'make histories    complete histories, 500 times at random'
	@echo 'make dist         build what is to be published, and check it'
	@echo 'make testpublish  make dist, upload it for a trial, and install that'
	@echo 'make publish      make dist, then upload it'
	@echo 'make clean        remove what the others made, docs/ aside'

demo: $(VENV)/installed
	@$(BIN)/python examples/tour.py

# The suite comes last: its closing line is what one wants to see. It builds
# the documentation, too, and runs its samples. Much of its time it waits; so
# three processes share it.
test: lint typecheck
	$(BIN)/python -m pytest -n 3 --dist worksteal \
	  --cov --cov-report=term-missing:skip-covered

lint: $(VENV)/tools
	@$(call with,ruff,ruff check . && $(BIN)/ruff format --check .)

typecheck: $(VENV)/tools
	@$(call with,mypy,mypy --cache-dir $(VENV)/mypy $(TYPED))

# What takes minutes, and is worth them before a release.
faults: $(VENV)/tools
	$(BIN)/python tests/long/faults.py

fuzz: $(VENV)/tools
	$(BIN)/python tests/long/fuzz.py

soak: $(VENV)/tools
	$(BIN)/python tests/long/soak.py

# To kill before every system call too: make kill KILL=--calls
kill: $(VENV)/tools
	$(BIN)/python tests/long/kill.py $(KILL)
	OUTBOX_EVENTS=10000 $(BIN)/python -m pytest -q tests/test_outbox.py \
	  -k thousands

# Hours; of one section, and a sample of it:
# make mutants MUTANTS="Secrets --sample 100"
mutants: $(MUTANTS_VENV)/installed
	$(MUTANTS_VENV)/bin/python tools/mutants.py $(MUTANTS)

bench: $(VENV)/installed
	@$(BIN)/python tools/bench/bench.py --check $(BENCH)

differential: $(VENV)/tools
	PREFETCH_CASES=2000 $(BIN)/python -m pytest -q tests/test_prefetch.py

histories: $(VENV)/tools
	HISTORY_CASES=500 $(BIN)/python -m pytest -q tests/test_history.py \
	  -k 'style or read_ahead or killed'

docs: $(VENV)/tools
	rm -rf docs
	$(BIN)/sphinx-build -n -W -E -q -d $(VENV)/doctrees -b html \
	  sphinx/source docs

# What is published is what was committed, and so what was tested.
committed:
	@if ! [ -e .git ] || ! changes=$$(git status --porcelain -unormal); then \
	  echo 'A release is made from a git checkout, which this is not.' >&2; \
	  exit 1; \
	elif [ -n "$$changes" ]; then \
	  echo 'A release is made from what is committed. This is not:' >&2; \
	  echo "$$changes" >&2; \
	  exit 1; \
	fi

# The wheel is built from the sdist, and so from what git tracks.
dist: committed $(RELEASE_VENV)/installed
	rm -rf build dist
	$(RELEASE)/python -m build --no-isolation
	$(RELEASE)/python -m twine check --strict dist/*

testpublish: dist
	$(RELEASE)/python -m twine upload --repository testpypi dist/*
	$(RELEASE)/python tools/trial.py testpypi

publish: dist
	$(RELEASE)/python -m twine upload --repository pypi dist/*

clean:
	rm -rf $(VENV) $(RELEASE_VENV) $(MUTANTS_VENV) build dist pdpyras.egg-info \
	  .coverage .coverage.* .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -prune -exec rm -rf {} +

# Made anew whenever what it was made from has changed.
$(VENV)/installed: setup.py pyproject.toml requirements.txt
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python $(PIP) install "pip==21.3.1; python_version < '3.7'"
	$(BIN)/python $(PIP) install --editable .
	@touch $@

$(VENV)/tools: $(VENV)/installed requirements/test.txt \
		requirements/lint.txt requirements/docs.txt \
		requirements-publish.txt requirements/publish.txt
	$(BIN)/python $(PIP) install -r requirements/test.txt \
	  -r requirements/lint.txt -r requirements-publish.txt
	@touch $@

$(RELEASE_VENV)/installed: requirements/publish.txt
	$(PYTHON) -m venv --clear $(RELEASE_VENV)
	$(RELEASE)/python $(PIP) install -r $<
	@touch $@

$(MUTANTS_VENV)/installed: requirements/test.txt requirements/mutants.txt
	$(PYTHON) -m venv --clear $(MUTANTS_VENV)
	$(MUTANTS_VENV)/bin/python $(PIP) install -r requirements/mutants.txt
	@touch $@
