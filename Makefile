# Every target is one or two lines of real command. `make setup` is implied wherever it is needed.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
# An existing environment, such as a container's, can be used as it is: make BIN=... test
STAMP  := $(if $(findstring command line,$(origin BIN)),,$(VENV)/.up-to-date)
IMAGE  ?= annotated-ssd
HAS_UV := $(shell uv --version >/dev/null 2>&1 && echo yes)
# glibc hands large blocks back to the system after every use, and training asks for them again at
# every step. Keeping them made it 1.46 times as fast (71 to 104 images/s on two cores).
export MALLOC_TRIM_THRESHOLD_ := 4000000000
export MALLOC_MMAP_THRESHOLD_ := 4000000000
# Torch's threads spin while they wait for each other. Where other programs use the cores too, that
# cost most of the speed: 17 and 9 images/s of training, against 60 and 41 with threads that sleep.
# (With two cores to itself, training loses an eighth by sleeping: 107 instead of 123.)
export OMP_WAIT_POLICY := passive
# Notebooks that run side by side: most of them keep one core busy.
JOBS ?= 2
# Torch's threads for each of them. With two on two cores, the two notebooks got in each other's way:
# the same training took 1.25 times as much of the processors' time as with one.
THREADS ?= $(shell expr \( $$(getconf _NPROCESSORS_ONLN) + $(JOBS) - 1 \) / $(JOBS))
# The chapters that train come first, so that none is left alone at the end while a core idles.
LONGEST := $(foreach n,18 10 00 17 15 06,$(wildcard book/$(n)-*.ipynb))
CHAPTERS := $(LONGEST) $(filter-out $(LONGEST),$(wildcard book/*.ipynb))
# One chapter for sync and execute, for example CHAPTER=05-matching; by default all.
CHAPTER ?=
# So many mutants of each module, drawn at random; by default all.
SAMPLE ?=
# What should be known about a run of the benchmarks; it is stored with the results.
NOTE ?=

ifeq ($(HAS_UV),yes)
CREATE  = uv venv --quiet --python $(PYTHON) $(VENV)
INSTALL = uv pip install --quiet --python $(BIN)/python
else
CREATE  = $(PYTHON) -m venv $(VENV)
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check
endif

.DEFAULT_GOAL := help
.PHONY: help setup lock lint format test test-pages test-gpu test-long test-elsewhere test-oldest test-newest test-faults fuzz coverage mutants drift scan bench bench-gpu learning book pdf sync execute lab weights docker docker-test clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP)  ## make .venv from requirements.txt, unless it is up to date

ifneq ($(STAMP),)
$(STAMP): requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "$(PYTHON) is $$($(PYTHON) --version 2>&1), expected Python 3.11 or newer: make PYTHON=python3.12 ..."; exit 1; }
	test -x $(BIN)/python || $(CREATE)
	$(INSTALL) -r requirements.txt
	$(INSTALL) --no-deps -e .
	@touch $@
endif

lock:  ## compile requirements.txt from pyproject.toml (needs uv)
	uv pip compile --quiet --universal --fork-strategy fewest --extra test --no-header --no-annotate \
	  --no-emit-index-url pyproject.toml -o requirements.txt

lint: setup  ## ruff: check the rules, then the formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: setup  ## let ruff fix what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

test: export OMP_NUM_THREADS = $(THREADS)
test: setup  ## pytest on the package, then nbval on every notebook, strict
	$(BIN)/pytest tests -n $(JOBS) --dist loadfile
	$(BIN)/pytest --nbval --nbval-current-env --nbval-cell-timeout 900 -n $(JOBS) \
	  --dist loadfile --no-loadscope-reorder $(CHAPTERS)

test-pages: setup  ## the built pages in the system's Chromium; after `make book`
	$(BIN)/pytest tests/pages -n $(JOBS) --dist worksteal

test-gpu: setup  ## nbval on every notebook with the machine's GPU; fails without one
	$(BIN)/python -c 'import torch; assert torch.cuda.is_available(), "torch finds no GPU here"'
	$(BIN)/pytest --nbval --nbval-current-env --nbval-cell-timeout 900 $(wildcard book/*.ipynb)

# In an environment of their own: its name, the version of Python, options of uv.
define test_fresh
uv venv --quiet --clear --python $(2) .venv-$(1)
uv pip install --quiet --python .venv-$(1)/bin/python $(3) --editable ".[test]"
.venv-$(1)/bin/pytest tests -n $(JOBS) --dist loadfile
endef

test-oldest: export OMP_NUM_THREADS = $(THREADS)
test-oldest:  ## the package's tests with the oldest packages that pyproject.toml allows (needs uv)
	$(call test_fresh,oldest,3.11,--resolution lowest-direct)

test-newest: export OMP_NUM_THREADS = $(THREADS)
test-newest:  ## the same with the newest packages and Python 3.13 (needs uv)
	$(call test_fresh,newest,3.13,--upgrade)

fuzz: setup  ## damaged and hostile files for every reader, a minute for each; prints figures
	$(BIN)/python tests/long/fuzz.py --seconds 60

test-faults: setup  ## kill a training a hundred times, fill its disk, and resume it to the same bits
	$(BIN)/pytest -s tests/long/test_kills.py

test-long: setup  ## what takes minutes: 1,000 examples for every property, 5,000 pictures, the faults
	$(BIN)/pytest --hypothesis-profile long $$(grep -l '^@given' tests/test_*.py)
	$(BIN)/pytest -s tests/long

test-elsewhere: export OMP_NUM_THREADS = 1
test-elsewhere: setup  ## the chapters on one core, without a network, in Turkish ... (Linux; 20 minutes)
	unshare --map-root-user --net --mount tests/long/elsewhere.sh \
	  $(BIN)/pytest --nbval --nbval-current-env --nbval-cell-timeout 900 $(wildcard book/*.ipynb)

coverage: setup  ## which lines and branches of the package the tests run
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest tests -n $(JOBS) --dist loadfile
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

mutants: setup  ## plant faults in the core, one at a time, and list those no test sees (SAMPLE=40)
	OMP_NUM_THREADS=1 $(BIN)/python tools/mutants.py --jobs $(JOBS) $(if $(SAMPLE),--sample $(SAMPLE))

drift: setup  ## run the chapters with what is installed; list the sentences that no longer hold
	$(BIN)/python tools/drift.py --jobs $(JOBS) $(CHAPTER)

scan:  ## what scanners say of the package, the workflows and the locked packages (needs uv)
	uvx bandit --quiet --configfile pyproject.toml --recursive ssd_annotated examples docker
	uvx zizmor --offline .github
	uvx pip-audit --requirement requirements.txt --no-deps --disable-pip

bench: setup  ## every time beside its competitors, into benchmarks/results.json (10 minutes)
	$(BIN)/python benchmarks/bench.py --json benchmarks/results.json --note "$(NOTE)"

learning: setup  ## the nine trainings of chapter 10's table, into benchmarks/learning.json (half an hour)
	$(BIN)/python benchmarks/learning.py --json benchmarks/learning.json

bench-gpu: setup  ## SSD300 beside torchvision on the machine's GPU; fails without one
	$(BIN)/python benchmarks/gpu.py

book: setup  ## the book, at _build/html/index.html; a warning or a missing page is an error
	$(BIN)/python tools/plan.py
	$(BIN)/python tools/memory.py
	$(BIN)/python tools/pages.py
	$(BIN)/python tools/cards.py
	$(BIN)/python tools/try_data.py
	$(BIN)/python tools/try_weights.py
	$(BIN)/jupyter-book build . --all --builder html --path-output . -n -W --keep-going

pdf: setup  ## the built book as one PDF, _build/annotated-ssd.pdf (with the system's Chromium)
	$(BIN)/python tools/pdf.py

sync: setup  ## book/text/*.md -> book/*.ipynb; outputs stay where a cell did not change
	$(BIN)/python tools/notebooks.py sync $(CHAPTER)

execute: setup  ## run the chapters top to bottom and store them
	$(BIN)/python tools/notebooks.py execute $(CHAPTER)

lab: setup  ## open the chapters in JupyterLab
	$(BIN)/jupyter lab --notebook-dir book

weights: setup  ## retrain the TinySSD that ships with the package
	$(BIN)/python tools/train_shipped.py

docker:  ## build the image
	docker build -t $(IMAGE) .

docker-test: docker  ## run the tests inside the image, including every chapter
	docker run --rm --shm-size 2g $(IMAGE) test

clean:  ## remove what was built; .venv stays
	rm -rf _build .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
