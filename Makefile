# `make run` and `make test` are all a newcomer needs: each makes the virtual environment on first use.
PYTHON ?= python3
PIP_ARGS ?=
ARGS ?=
DATA ?= data
ETTH1 ?= $(DATA)/ETTh1.csv.gz
BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help run reference leaderboard bench test slurm-up slurm-down lint format clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: .venv/ready ## Train vanilla, lightning and no attention on real text, measure them, show the leaderboard (4 minutes)
	$(BIN)/python -m cab.run -m experiment=smoke $(ARGS)
	$(BIN)/python -m cab.leaderboard

reference: .venv/ready ## The sweep behind results/reference; needs DATA/books and ETTH1 (many hours on two cores; resumes)
	$(BIN)/python -m cab.tune experiment=recall size=small measure=false device.threads=1 $(ARGS)
	$(BIN)/python -m cab.tune experiment=books data.path=$(DATA)/books measure=false device.threads=1 $(ARGS)
	$(BIN)/python -m cab.tune "attention=glob(*,exclude=eager)" task=lm size=small seed=0,1,2 measure=false device.threads=1 $(ARGS)
	$(BIN)/python -m cab.tune experiment=etth1 data.path=$(ETTH1) measure=false device.threads=1 $(ARGS)
	$(BIN)/python -m cab.efficiency experiment=efficiency "efficiency.lengths=[256,512,1024,2048,4096]" efficiency.budget=30
	$(BIN)/python -m cab.leaderboard

leaderboard: .venv/ready ## Tables and plots from all records in results/
	$(BIN)/python -m cab.leaderboard $(ARGS)

bench: .venv/ready ## Targets of speed and memory, measured (15 minutes on a quiet machine)
	$(BIN)/python -m dev.bench $(ARGS)

test: .venv/ready ## Tests, in two processes; all of them with ARGS='-m "slow or not slow"'
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile --max-worker-restart=0 $(ARGS)

slurm-up: .venv/ready ## A SLURM of one node to try sweeps on, in a folder of its own; SLURM has to be installed
	@$(BIN)/python dev/slurm_cluster.py up $(ARGS)

slurm-down: .venv/ready ## End it, with all its jobs
	@$(BIN)/python dev/slurm_cluster.py down $(ARGS)

lint: .venv/ready ## Style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: .venv/ready ## Put the code into the project's style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## Remove the environment; results stay
	rm -rf .venv *.egg-info

# The tested versions. On a machine without a GPU, PIP_ARGS="--extra-index-url https://download.pytorch.org/whl/cpu"
# saves gigabytes.
.venv/ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if (3, 11) <= v < (3, 14) else "Python %d.%d: 3.11 to 3.13 is needed; choose one with make PYTHON=python3.12" % v[:2])'
	@echo 'Installing into .venv: this project, editable, and the packages of constraints.txt that it needs, with torch'
	@echo '(1.5 GB with the CPU build, several more with CUDA). Nothing outside of this folder.'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) -c constraints.txt -e '.[dev]'
	@touch $@
