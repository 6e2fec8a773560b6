# `make` alone lists the targets. Settings follow as NAME=value: make render SCENES=10 GENERATOR=rooms.
# They are handed to the program as they are; `sap-panorama COMMAND --help` and docs/settings.md list
# them. EXTRAS, what setup installs, is make's own.
SHELL := /bin/sh
.DEFAULT_GOAL := help

# Several pips in one .venv would be in each other's way.
.NOTPARALLEL:

python := .venv/bin/python
stamps := .venv/stamps
constraints := pipeline/install/constraints.txt
extras := render predict hub train demo test

commands := render status failures plan shards preview verify stats coco export card publish eval \
            train nano ablations segment demo check-gpu

EXTRAS = render
wrong := $(filter-out $(extras),$(EXTRAS))
ifneq ($(wrong),)
$(error EXTRAS=$(wrong) is unknown; choose from $(extras))
endif

# ---- settings -----------------------------------------------------------------------------------
# What was given on the command line, and nothing of the environment: OUT, WIDTH or SEED there are
# likely to be somebody else's. Values are neither expanded nor exported, only quoted for the shell.
given := $(filter-out EXTRAS,$(foreach name,$(.VARIABLES),$(if $(filter command,$(origin $(name))),$(name))))
words := $(foreach name,$(given),'$(name)=$(subst ','\'',$(value $(name)))')
unexport $(given)
MAKEOVERRIDES :=

ifneq ($(given),)
ifeq ($(filter $(commands),$(MAKECMDGOALS)),)
$(error make $(or $(MAKECMDGOALS),help) takes no settings (given: $(given)); these do: $(commands))
endif
endif

.PHONY: help setup $(commands) quick core test check bench lock clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo "Settings follow as NAME=value: make render SCENES=3 GENERATOR=rooms."
	@echo "docs/settings.md lists them; so does .venv/bin/sap-panorama COMMAND --help."

setup: $(foreach extra,$(EXTRAS),$(stamps)/$(extra)) ## install into .venv (EXTRAS="render predict hub train demo test")

render: $(stamps)/render ## make SCENES annotated scenes in OUT: the main job
status: $(stamps)/render ## what OUT has done, is doing and has failed, read from its files
failures: $(stamps)/render ## why seeds are quarantined, and how to make each of them again
plan: $(stamps)/render ## what a run will take (CPUS= GPUS= SCENES=)
shards: $(stamps)/render ## pack the finished scenes of OUT into Parquet (render does it too)
preview: $(stamps)/render ## write OUT/preview/index.html
verify: $(stamps)/render $(stamps)/hub ## read every shard back and check all of it
stats: $(stamps)/render $(stamps)/hub ## count what the dataset holds, as JSON and as pictures
coco: $(stamps)/render $(stamps)/hub ## write OUT/coco: images and COCO annotations
export: $(stamps)/render $(stamps)/hub ## write OUT/export/FORMAT: views, YOLO, WebDataset, nerfstudio, COLMAP, FiftyOne
card: $(stamps)/render $(stamps)/hub ## write OUT/card: the dataset card (LICENSE=)
publish: $(stamps)/render $(stamps)/hub ## send a verified dataset to the Hub (REPO=user/name LICENSE=)
eval: $(stamps)/render $(stamps)/hub $(stamps)/train ## score methods on panoramas (METHODS= CHECKPOINT=)
train: $(stamps)/render $(stamps)/hub $(stamps)/train ## fine-tune SAM2 on the scan (DATA= SIZE= CHECKPOINT= GPUS=)
nano: $(stamps)/render $(stamps)/hub $(stamps)/train ## make the shipped small models from scratch (DATA=)
segment: $(stamps)/predict ## masks of everything in a folder of panoramas or a video (DATA= OUT= PROMPTS=)
demo: $(stamps)/demo ## open a page on this machine on which masks are clicked (DATA=picture, folder or shards)
check-gpu: $(stamps)/train ## compare this machine's GPU with its CPU and measure it: 8 minutes
ablations: $(stamps)/render $(stamps)/hub $(stamps)/train ## the paper's tables 4 to 6 at nano scale (DATA=)

$(commands):
	@$(python) -m pipeline $@ $(words)

check: $(stamps)/test ## ruff and mypy
	@$(python) -m ruff check .
	@$(python) -m ruff format --check .
	@$(python) -m mypy

quick: $(stamps)/test ## the quick tests, without Blender, Ray and torch: about a minute
	@$(python) -m pytest --quick tests pipeline

test: $(stamps)/render $(stamps)/hub $(stamps)/train $(stamps)/demo $(stamps)/test check ## check, then the whole test suite
	@OMP_NUM_THREADS=1 $(python) -m pytest --numprocesses 2 --dist loadgroup --no-loadscope-reorder
	@$(MAKE) --no-print-directory core

core: .venv-core/installed ## the core's tests with the newest Python of this machine and the newest packages
	@.venv-core/bin/python -m pytest $(core_tests)

bench: $(stamps)/render $(stamps)/hub $(stamps)/train $(stamps)/test ## measure what docs/results.md says (takes hours)
	@$(python) -m tests.benchmarks.run

lock: clean ## pin again: reinstall without the old pins of indirect packages, write constraints.txt
	@: > $(constraints)
	@$(MAKE) --no-print-directory setup EXTRAS="$(extras)"
	@$(python) -m pipeline.install.pin

clean: ## remove .venv and .venv-core (never OUT)
	rm -rf .venv .venv-core

# ---- the core alone: no Blender, no Ray, no torch, any Python from 3.10, NumPy 2 ------------------
core_tests := tests/annotations tests/pictures tests/shards tests/test_categories.py tests/test_cli.py \
              tests/test_run_settings.py tests/test_sphere.py \
              $(addprefix --ignore=tests/shards/test_,reader.py remote.py schema.py) # need datasets

.venv-core/installed: pyproject.toml
	@for version in 14 13 12 11 10; do \
	  for newest in python3.$$version "$$HOME"/.pyenv/versions/3.$$version.*/bin/python; do \
	    "$$newest" -m venv .venv-core 2>/dev/null && break 2; \
	  done; \
	done
	@test -x .venv-core/bin/python || { echo "no Python from 3.10 with venv was found; install one"; exit 2; }
	@echo "installing the core into .venv-core: $$(.venv-core/bin/python --version)"
	@.venv-core/bin/python -m pip install --quiet --disable-pip-version-check --only-binary=:all: \
	  --editable . pytest pytest-timeout hypothesis py360convert tifffile
	@touch $@

# ---- installation -------------------------------------------------------------------------------
# Wheels only, every version pinned. Two pure-Python packages are published as source; sam2 is the
# one package that compiles, here without its optional CUDA kernel.
install = $(python) -m pip install --quiet --disable-pip-version-check \
          --only-binary=:all: --no-binary=iopath,antlr4-python3-runtime --constraint $(constraints)

.venv/bin/python:
	@command -v python3.11 >/dev/null || { echo "Python 3.11 is needed (bpy 4.2.0 has no other\
	 wheels): apt-get install python3.11 python3.11-venv, or uv python install 3.11"; exit 2; }
	@python3.11 -m venv .venv || { rm -rf .venv; echo "python3.11 cannot make a .venv;\
	 on Debian and Ubuntu: apt-get install python3.11-venv"; exit 2; }

$(stamps)/%: pyproject.toml $(constraints) | .venv/bin/python
	@echo "installing $* into .venv"
	@$(install) --editable '.[$*]'
	@$(python) -m pipeline.install.check $*
	@mkdir -p $(stamps) && touch $@

$(stamps)/predict: pyproject.toml $(constraints) pipeline/install/sam2.txt | .venv/bin/python
	@echo "installing predict into .venv"
	@$(install) --editable '.[sam2-needs]' setuptools==80.9.0 wheel==0.45.1
	@SAM2_BUILD_CUDA=0 $(python) -m pip install --quiet --disable-pip-version-check \
	  --no-build-isolation --no-deps --require-hashes --requirement pipeline/install/sam2.txt
	@$(python) -m pipeline.install.check predict
	@mkdir -p $(stamps) && touch $@

# Neither names sam2: it would bring torchvision.
$(stamps)/train $(stamps)/demo: $(stamps)/%: $(stamps)/predict
	@echo "installing $* into .venv"
	@$(install) --editable '.[$*-needs]'
	@$(python) -m pipeline.install.check $*
	@touch $@
