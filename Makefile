# `make help` lists the verbs. Everything runs in .venv, which the first verb that needs it creates.

PYTHON ?= python3
VENV := .venv
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
READY := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help setup repro test test-fast quality format example paper compare bench bench-speed bench-omniglot photos bench-adapters bench-names ablation figures show report campaign lock clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY) ## create .venv with the pinned versions

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "ltdi needs Python 3.11 or newer, $(PYTHON) is " + sys.version.split()[0] + "; set PYTHON=")'
	$(PYTHON) -m venv $(VENV)
	@echo "installing the pinned packages, about 5 GB with torch's CUDA libraries; a few minutes"
	$(VENV)/bin/python -m pip install --quiet --no-deps --requirement requirements.lock
	$(VENV)/bin/python -m pip install --quiet torch torchvision --constraint requirements.lock
	$(VENV)/bin/python -m pip install --quiet --no-deps --editable .
	touch $@

repro: $(READY) ## run the changed stages and show the table
	@python -m pipeline.check
	dvc repro
	@python -m pipeline.summary

example: $(READY) ## a head for a folder of images without training, on a task of the last run
	ltdi example
	ltdi classify data/example/support data/example/query

paper: $(READY) ## the paper's own form, from noise on recorded weights, until it has converged; an hour on two cores: LTDI_DATA=<folder>
	LTDI_DATA=$(LTDI_DATA) python -m bench paper

compare: $(READY) ## all experiments side by side: changed params and accuracy
	@dvc exp show --no-pager --only-changed --drop '^(pipeline|ltdi)/|^data/(?!results)|baselines|ms_per_task|ceiling|weight_mse|Created|State|Executor|best_baseline'

LTDI_DATA ?= data/raw
SEEDS ?= 0 1 2
FOUR := 5w1s 5w5s 20w1s 20w5s

# one process, not DVC, which around each of 117 cells starts Python and torch and handles its lock file: 6 to 10 s a cell
bench: $(READY) ## every method in every setting whose data are found: LTDI_DATA=<folder> BUDGET=quick|cpu|full
	LTDI_DATA=$(LTDI_DATA) BUDGET=$(or $(BUDGET),quick) python -m bench cells; ended=$$?; python -m bench report && exit $$ended

bench-speed: $(READY) ## how fast the hot paths are, beside plain loops and the peak
	python -m bench speed

bench-omniglot: BUDGET := $(or $(BUDGET),cpu)
bench-omniglot: $(READY) ## Lt-Di and the baselines on Omniglot: LTDI_DATA=<folder> SEEDS="0 1 2" BUDGET=cpu|full
	LTDI_DATA=$(LTDI_DATA) python -m bench run $(FOUR:%=--setting omniglot-%) $(SEEDS:%=--seed %) --budget $(BUDGET) --variant ltdi --variant lvdi
	python -m bench report

WEIGHTS ?= hub

photos: $(READY) ## Lt-Di on photographs and a pre-trained body: LTDI_DATA=<folder> WEIGHTS=<safetensors file>|hub
	LTDI_DATA=$(LTDI_DATA) python -m bench photos --weights $(WEIGHTS) $(SEEDS:%=--seed %)

LTDI_BODY ?= roberta-base

bench-adapters: $(READY) ## adapters of a language model on MRPC and QNLI: LTDI_GLUE=<folder or zip> LTDI_BODY=<model> SEEDS="0 1 2" BUDGET=cpu|gpu|full
	python -m bench adapters --root $(or $(LTDI_GLUE),$(LTDI_DATA)/glue) --body $(LTDI_BODY) $(SEEDS:%=--seed %) --budget $(or $(BUDGET),cpu)

TINY ?= $(LTDI_DATA)/tiny-imagenet-200.zip
CIFAR ?= $(LTDI_DATA)/cifar10.zip
CLASSES ?= $(LTDI_DATA)/imagenet-1k-classes.tsv
ENCODER ?= sentence-transformers/all-MiniLM-L6-v2

bench-names: $(READY) ## heads from names: LTDI_DATA=<folder> TINY=<zip> CIFAR=<zip> CLASSES=<tsv> ENCODER=<model> WEIGHTS=<file> SEEDS="0 1 2"
	python -m bench zero-shot --tiny $(TINY) --cifar $(CIFAR) --body $(WEIGHTS) --classes $(CLASSES) --encoder $(ENCODER) $(SEEDS:%=--seed %) --images 60 --steps 120

ablation: $(READY) ## what each part of the method does, on the embedded glyphs: SEEDS="0 1 2"
	python -m bench run --setting glyphs-5w1s $(SEEDS:%=--seed %) --budget ablation --variant all
	python -m bench sharpness --setting glyphs-5w1s $(SEEDS:%=--seed %) --budget ablation
	python -m bench report

FIGURES ?= 1 4-left 4-right 5-left 5-right 6 7-8

figures: $(READY) ## the paper's figures, bench/results/figures/; an hour on two cores: LTDI_DATA=<folder> FIGURES="1 5-left"
	for name in $(FIGURES); do LTDI_DATA=$(LTDI_DATA) python -m bench figure $$name || exit; done

test: $(READY) ## the whole test suite
	python -m pytest -n auto --dist loadfile

test-fast: $(READY) ## the tests that take no more than a few seconds each
	python -m pytest -n auto --dist loadfile -m "not slow"

quality: $(READY) ## lint, format and types
	ruff check .
	ruff format --check .
	mypy
	lint-imports

format: $(READY) ## what the formatter and the linter can mend by themselves
	ruff check --fix .
	ruff format .

show: $(READY) ## the table of the last run
	@python -m pipeline.summary

report: $(READY) ## the last run as one page, data/report.html
	@python -m pipeline.report

campaign: $(READY) ## attacks by chance on all that reads or writes a file: SEED=0; 20 minutes
	PYTHONPATH=.:tests python tests/robustness/campaign.py --seed $(or $(SEED),0)

lock: $(READY) ## pin what is installed now
	(sed -n '/^#/p' requirements.lock; pip freeze | grep -viE '^(nvidia|cuda|triton|-e |#)') > requirements.lock.new
	mv requirements.lock.new requirements.lock

clean: ## remove what the stages wrote; the caches stay
	find data -mindepth 1 -maxdepth 1 ! -name raw -exec rm -rf {} +
