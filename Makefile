# Two commands matter: `make quickstart` and `make test`. `make help` lists the rest.

PYTHON ?= python3
STACK ?= forks
ifeq ($(STACK),forks)
VENV ?= .venv
else
VENV ?= .venv-$(STACK)
endif
ARGS ?=
JOBS ?= auto

ENV_PYTHON = "$(VENV)/bin/python"

.DEFAULT_GOAL := help
.PHONY: help quickstart pretrain-demo test test-quick test-long lint lock docs doctor \
  setup clean

help:
	@echo 'make quickstart     set up, train and evaluate a small detector, draw pictures'
	@echo 'make pretrain-demo  pretrain a classifier, then train a detector from it'
	@echo 'make test           set up, check the style, run the tests'
	@echo 'make test-quick     the same without the tests marked slow'
	@echo 'make test-long      the same, with more repeats and the examples of help texts'
	@echo 'make setup          create or complete the environment, nothing else'
	@echo 'make lint           check the style only'
	@echo 'make lock           write the versions of requirements/STACK.txt again'
	@echo 'make docs           build the pages as a web site, in site/'
	@echo 'make doctor         versions, what is wrong with them, and the cure'
	@echo 'make clean          remove what building and testing left (not environments)'
	@echo
	@echo 'PYTHON=python3.11      interpreter that the environment is made from'
	@echo 'VENV=.venv             where the environment is or goes'
	@echo 'STACK=forks|originals  the maintained forks of OpenMMLab, or the originals'
	@echo 'JOBS=auto              processes of the tests, each with one thread'
	@echo "ARGS='-k backbone'     passed on to pytest (test) or to the tool (quickstart)"

setup:
	@command -v "$(PYTHON)" >/dev/null || { \
	  echo 'error: no $(PYTHON) found; name a Python >= 3.10: PYTHON=python3.11' >&2; \
	  exit 1; }
	@"$(PYTHON)" tools/setup_env.py --stack "$(STACK)" --venv "$(VENV)"

quickstart: setup
	@$(ENV_PYTHON) tools/quickstart.py $(ARGS)

pretrain-demo: setup
	@$(ENV_PYTHON) tools/pretrain_demo.py $(ARGS)

lint: setup
	@$(ENV_PYTHON) -m ruff check .
	@$(ENV_PYTHON) -m ruff format --check .
	@"$(VENV)/bin/lint-imports" --no-logo

# Keeps the versions that stand there and still fit; remove a line to renew it.
lock: setup
	@MMPOOLFORMER_STACK=$(STACK) "$(VENV)/bin/uv" pip compile -q -p $(ENV_PYTHON) \
	  --no-build-isolation --universal --python-version 3.10 --no-annotate \
	  --no-header --no-emit-index-url --extra all --extra dev \
	  setup.py requirements/$(STACK).in -o requirements/$(STACK).txt

# Processes with one thread each: two that share the cores with two threads each
# wait for each other most of the time.
test: lint
	@OMP_NUM_THREADS=1 $(ENV_PYTHON) -m pytest -n $(JOBS) --dist loadfile $(TIER) $(ARGS)

ifeq ($(STACK),originals)
TIER = -m smoke
endif
test-quick: TIER = -m "not slow"
test-long: TIER = --long --timeout 3600
test-quick test-long: test

docs: setup
	@MMPOOLFORMER_STACK=$(STACK) "$(VENV)/bin/uv" pip install -q -p $(ENV_PYTHON) \
	  --no-build-isolation --extra docs -r setup.py
	@$(ENV_PYTHON) -m mkdocs build --strict

# Works in any Python, also where nothing is installed: that is when it is needed.
doctor:
	@python=$(ENV_PYTHON); test -x "$$python" || python="$(PYTHON)"; \
	  "$$python" -m mmpoolformer.doctor $(ARGS)

clean:
	rm -rf build dist site .pytest_cache .ruff_cache *.egg-info
	find mmpoolformer configs tools tests -name __pycache__ -type d -prune \
	  -exec rm -rf {} +
