# `make` alone lists the targets and their settings.
SHELL := /bin/sh
.DEFAULT_GOAL := help
PYTHON := .venv/bin/python
STAMPS := .venv/stamps

# Several pips in one .venv would be in each other's way.
.NOTPARALLEL:

# ---- settings (give them on the command line: make render SCENES=10 GENERATOR=rooms) ----------
# On purpose not from the environment: OUT, WIDTH or SEED there are likely to be somebody else's.
# RAY_ADDRESS is Ray's own variable and means the same everywhere.
OUT = out
SCENES =
GENERATOR =
SEED =
PANOS =
PROFILE =
WIDTH =
SAMPLES =
PASSES =
MIN_AREA =
WORKERS =
RENDER_CPUS =
KEEP_SCENES =
RAY_ADDRESS ?=
SCRATCH =
WAITING_GIB =
JSON =
CPUS =
RUNS =
GPU_SPEED =
PRICE_CPU_HOUR =
PRICE_GPU_HOUR =
PRICE_GIB_MONTH =
LIMIT =
DATA =
FORMAT =
LICENSE =
REPO =
PRIVATE =
DRY_RUN =
REPLACE =
METHODS =
BENCHMARK =
SPLIT =
SIZE =
CHECKPOINT =
SAM2 =
IMAGE_SIZE =
FUSION =
CLICKS =
STRUCTURE =
OBJECTS =
EVAL =
RUN =
MIX =
SA1B =
SAV =
METHOD =
CLIP_OBJECTS =
CLIP_FRAMES =
BATCH_SIZE =
MICRO_BATCH_SIZE =
STEPS =
LR =
MIN_PIXELS =
PRECISION =
CHECKPOINTING =
VALIDATE_EVERY =
SAVE_EVERY =
GPUS =
EXTRAS = render
SETTINGS := OUT SCENES GENERATOR SEED PANOS PROFILE WIDTH SAMPLES PASSES MIN_AREA WORKERS \
            RENDER_CPUS KEEP_SCENES RAY_ADDRESS SCRATCH WAITING_GIB JSON CPUS \
            RUNS GPU_SPEED PRICE_CPU_HOUR PRICE_GPU_HOUR PRICE_GIB_MONTH LIMIT DATA FORMAT LICENSE REPO PRIVATE DRY_RUN \
            REPLACE METHODS BENCHMARK SPLIT SIZE CHECKPOINT SAM2 IMAGE_SIZE FUSION CLICKS STRUCTURE \
            OBJECTS EVAL RUN MIX SA1B SAV METHOD CLIP_OBJECTS CLIP_FRAMES BATCH_SIZE MICRO_BATCH_SIZE STEPS LR MIN_PIXELS PRECISION \
            CHECKPOINTING VALIDATE_EVERY SAVE_EVERY GPUS EXTRAS

# A mistyped setting must not be ignored silently.
given := $(foreach name,$(.VARIABLES),$(if $(filter command,$(origin $(name))),$(name)))
unknown := $(filter-out $(SETTINGS),$(given))
ifneq ($(unknown),)
$(error unknown setting $(unknown); the settings are $(SETTINGS))
endif

# Nor an empty one: OUT=$UNSET would be the default.
empty := $(foreach name,$(filter $(SETTINGS),$(given)),$(if $(strip $($(name))),,$(name)))
ifneq ($(strip $(empty)),)
$(error $(strip $(empty)) is empty; give it a value, or leave it out)
endif

ALL_EXTRAS := render hub test training
wrong := $(filter-out $(ALL_EXTRAS),$(EXTRAS))
ifneq ($(wrong),)
$(error unknown EXTRAS $(wrong); choose from $(ALL_EXTRAS))
endif

# $(call flag,scenes,SCENES): --scenes 'value' where SCENES is given, quoted for the shell.
flag = $(if $($(2)),--$(1) '$(subst ','\'',$($(2)))')
out := $(call flag,out,OUT)

.PHONY: help setup render plan status failures shards preview verify stats coco card publish eval train nano ablations test check \
        bench lock clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo "Settings of render: SCENES=1 OUT=out GENERATOR=indoors|rooms|house|indoors:3,rooms:1"
	@echo "  PROFILE=auto|draft|cpu|farm WIDTH= SAMPLES= PANOS=2 PASSES=depth,normal SEED=0"
	@echo "  MIN_AREA=100 WORKERS= RENDER_CPUS= KEEP_SCENES=1 RAY_ADDRESS= SCRATCH= WAITING_GIB=200   (see README.md)"
	@echo "Settings of plan: SCENES= CPUS= GPUS=0 and those of render; RUNS=OUT,OUT"
	@echo "  GPU_SPEED=50 PRICE_CPU_HOUR= PRICE_GPU_HOUR= PRICE_GIB_MONTH= JSON=1"
	@echo "Settings of eval: METHODS=oracle,sam2,scan,sap SIZE=large|nano|… CHECKPOINT=FILE|user/name|sap-nano SAM2=official"
	@echo "  DATA=OUT/shards SPLIT=validation BENCHMARK= IMAGE_SIZE=1024 (nano: 256) CLICKS=3 FUSION=max LIMIT= EVAL=OUT/eval"
	@echo "Settings of train: SIZE=large CHECKPOINT=official RUN=OUT/train DATA=OUT/shards MIX=panoramas:2,sa1b:1 SA1B= SAV="
	@echo "  METHOD=sap BATCH_SIZE=128 MICRO_BATCH_SIZE=1 STEPS=10000 LR= CLIP_FRAMES=24 CLIP_OBJECTS=6 MIN_PIXELS=64 SEED=0 GPUS=1 PRECISION=auto"
	@echo "  CHECKPOINTING=1 VALIDATE_EVERY=500 SAVE_EVERY=200 WORKERS=4"
	@echo "Settings of publish: REPO=user/name LICENSE=cc-by-4.0|…|FILE PRIVATE=1 DRY_RUN=0 REPLACE=0"

setup: $(foreach extra,$(EXTRAS),$(STAMPS)/$(extra)) ## install into .venv (EXTRAS="render hub test training")

render: $(STAMPS)/render ## make SCENES annotated scenes in OUT: the main job
	@$(PYTHON) -m pipeline render $(out) $(call flag,scenes,SCENES) $(call flag,generator,GENERATOR) \
	  $(call flag,seed,SEED) $(call flag,panos,PANOS) $(call flag,profile,PROFILE) \
	  $(call flag,width,WIDTH) $(call flag,samples,SAMPLES) $(call flag,passes,PASSES) \
	  $(call flag,min-area,MIN_AREA) $(call flag,workers,WORKERS) \
	  $(call flag,render-cpus,RENDER_CPUS) $(call flag,ray-address,RAY_ADDRESS) \
	  $(call flag,keep-scenes,KEEP_SCENES) $(call flag,scratch,SCRATCH) \
	  $(call flag,waiting-gib,WAITING_GIB)

status: $(STAMPS)/render ## what OUT has done, is doing and has failed, read from its files
	@$(PYTHON) -m pipeline status $(out) $(call flag,json,JSON)

failures: $(STAMPS)/render ## why seeds were given up, and how to make each of them again (LIMIT= of each kind)
	@$(PYTHON) -m pipeline failures $(out) $(call flag,json,JSON) $(call flag,limit,LIMIT)

plan: $(STAMPS)/render ## what a run will take (SCENES= CPUS= GPUS= RUNS=OUT,OUT)
	@$(PYTHON) -m pipeline plan $(call flag,scenes,SCENES) $(call flag,cpus,CPUS) \
	  $(call flag,gpus,GPUS) \
	  $(call flag,waiting-gib,WAITING_GIB) $(call flag,runs,RUNS) $(call flag,gpu-speed,GPU_SPEED) \
	  $(call flag,generator,GENERATOR) $(call flag,seed,SEED) $(call flag,panos,PANOS) \
	  $(call flag,profile,PROFILE) $(call flag,width,WIDTH) $(call flag,samples,SAMPLES) \
	  $(call flag,price-cpu-hour,PRICE_CPU_HOUR) $(call flag,price-gpu-hour,PRICE_GPU_HOUR) \
	  $(call flag,price-gib-month,PRICE_GIB_MONTH) $(call flag,json,JSON)

shards: $(STAMPS)/render ## pack the finished scenes of OUT into Parquet (render does it too)
	@$(PYTHON) -m pipeline shards $(out)

preview: $(STAMPS)/render ## write OUT/preview/index.html (LIMIT=24 panoramas)
	@$(PYTHON) -m pipeline preview $(out) $(call flag,limit,LIMIT)

verify: $(STAMPS)/render $(STAMPS)/hub ## read every shard back and check all of it (DATA=, WORKERS=)
	@$(PYTHON) -m pipeline verify $(out) $(call flag,data,DATA) $(call flag,workers,WORKERS)

stats: $(STAMPS)/render $(STAMPS)/hub ## count what the dataset holds, as JSON and as pictures (DATA=)
	@$(PYTHON) -m pipeline stats $(out) $(call flag,data,DATA)

coco: $(STAMPS)/render $(STAMPS)/hub ## write OUT/coco: images and COCO annotations (FORMAT=webp|png|jpg)
	@$(PYTHON) -m pipeline coco $(out) $(call flag,data,DATA) $(call flag,format,FORMAT) \
	  $(call flag,license,LICENSE)

card: $(STAMPS)/render $(STAMPS)/hub ## write OUT/card: the dataset card (LICENSE=, REPO=)
	@$(PYTHON) -m pipeline card $(out) $(call flag,license,LICENSE) $(call flag,repo,REPO)

publish: $(STAMPS)/render $(STAMPS)/hub ## send a verified dataset to the Hub (REPO=user/name LICENSE=)
	@$(PYTHON) -m pipeline publish $(out) $(call flag,repo,REPO) $(call flag,license,LICENSE) \
	  $(call flag,private,PRIVATE) $(call flag,dry-run,DRY_RUN) $(call flag,replace,REPLACE) \
	  $(call flag,workers,WORKERS)

eval: $(STAMPS)/render $(STAMPS)/hub $(STAMPS)/training ## score methods on panoramas (METHODS=sam2,scan,sap CHECKPOINT=)
	@$(PYTHON) -m sap_model eval --data '$(subst ','\'',$(or $(DATA),$(OUT)/shards))' \
	  --out '$(subst ','\'',$(or $(EVAL),$(OUT)/eval))' $(call flag,methods,METHODS) \
	  $(call flag,benchmark,BENCHMARK) $(call flag,split,SPLIT) $(call flag,size,SIZE) \
	  $(call flag,checkpoint,CHECKPOINT) $(call flag,sam2,SAM2) $(call flag,image-size,IMAGE_SIZE) \
	  $(call flag,fusion,FUSION) $(call flag,clicks,CLICKS) $(call flag,structure,STRUCTURE) \
	  $(call flag,objects,OBJECTS) $(call flag,limit,LIMIT) $(call flag,workers,WORKERS) \
	  $(call flag,ray-address,RAY_ADDRESS)

train: $(STAMPS)/render $(STAMPS)/hub $(STAMPS)/training ## fine-tune SAM2 on the scan (DATA= SIZE= CHECKPOINT= RUN=OUT/train GPUS=1)
	@$(if $(filter-out 1,$(GPUS)),$(PYTHON) -m torch.distributed.run --standalone \
	  --nproc-per-node '$(subst ','\'',$(GPUS))' -m --,$(PYTHON) -m) sap_model train \
	  --data '$(subst ','\'',$(or $(DATA),$(OUT)/shards))' \
	  --run '$(subst ','\'',$(or $(RUN),$(OUT)/train))' $(call flag,size,SIZE) \
	  $(call flag,checkpoint,CHECKPOINT) $(call flag,image-size,IMAGE_SIZE) \
	  $(call flag,method,METHOD) $(call flag,mix,MIX) $(call flag,sa1b,SA1B) $(call flag,sav,SAV) \
	  $(call flag,clip-objects,CLIP_OBJECTS) $(call flag,clip-frames,CLIP_FRAMES) $(call flag,batch-size,BATCH_SIZE) \
	  $(call flag,micro-batch-size,MICRO_BATCH_SIZE) $(call flag,steps,STEPS) $(call flag,lr,LR) \
	  $(call flag,min-pixels,MIN_PIXELS) $(call flag,seed,SEED) $(call flag,precision,PRECISION) \
	  $(call flag,checkpointing,CHECKPOINTING) $(call flag,validate-every,VALIDATE_EVERY) \
	  $(call flag,save-every,SAVE_EVERY) $(call flag,workers,WORKERS)

nano: $(STAMPS)/render $(STAMPS)/hub $(STAMPS)/training ## make the shipped small models from nothing (DATA= RUN=OUT/nano)
	@$(PYTHON) -m sap_model nano --data '$(subst ','\'',$(or $(DATA),$(OUT)/shards))' \
	  --run '$(subst ','\'',$(or $(RUN),$(OUT)/nano))' \
	  --weights '$(subst ','\'',$(or $(RUN),$(OUT)/nano))'

ablations: $(STAMPS)/render $(STAMPS)/hub $(STAMPS)/training ## the paper's tables 4 to 6 at nano scale (DATA= RUN=OUT/ablations STEPS=)
	@$(PYTHON) -m sap_model ablations --data '$(subst ','\'',$(or $(DATA),$(OUT)/shards))' \
	  --run '$(subst ','\'',$(or $(RUN),$(OUT)/ablations))' $(call flag,checkpoint,CHECKPOINT) \
	  $(call flag,steps,STEPS) $(call flag,objects,OBJECTS) $(call flag,limit,LIMIT) \
	  $(call flag,clicks,CLICKS)

check: $(STAMPS)/test ## ruff and mypy
	@$(PYTHON) -m ruff check .
	@$(PYTHON) -m ruff format --check .
	@$(PYTHON) -m mypy

test: $(STAMPS)/render $(STAMPS)/hub $(STAMPS)/training $(STAMPS)/test check ## check, then the whole test suite
	@$(PYTHON) -m pytest

bench: $(STAMPS)/render $(STAMPS)/hub $(STAMPS)/training $(STAMPS)/test ## measure what the README's table says (takes hours)
	@$(PYTHON) -m tests.benchmarks.run

lock: clean ## pin anew: reinstall without the old pins of indirect packages, write constraints.txt
	@: > $(CONSTRAINTS)
	@$(MAKE) --no-print-directory setup EXTRAS="$(ALL_EXTRAS)"
	@$(PYTHON) -m pipeline.install.lock

clean: ## remove .venv (never OUT)
	rm -rf .venv

# ---- installation -------------------------------------------------------------------------------
# Wheels only, every version pinned. Two pure-Python packages are published as source; sam2 is the
# one package that compiles, here without its optional CUDA kernel.
CONSTRAINTS := pipeline/install/constraints.txt
INSTALL = $(PYTHON) -m pip install --quiet --disable-pip-version-check \
          --only-binary=:all: --no-binary=iopath,antlr4-python3-runtime --constraint $(CONSTRAINTS)

.venv/bin/python:
	@command -v python3.11 >/dev/null || { echo "Python 3.11 is needed (bpy 4.2.0 has no other\
	 wheels): apt-get install python3.11 python3.11-venv, or uv python install 3.11"; exit 2; }
	@python3.11 -m venv .venv || { rm -rf .venv; echo "python3.11 cannot make a .venv;\
	 on Debian and Ubuntu: apt-get install python3.11-venv"; exit 2; }

$(STAMPS)/%: pyproject.toml $(CONSTRAINTS) | .venv/bin/python
	@echo "installing $* into .venv"
	@$(INSTALL) --editable '.[$*]'
	@$(PYTHON) -m pipeline.install.check $*
	@mkdir -p $(STAMPS) && touch $@

$(STAMPS)/training: pyproject.toml $(CONSTRAINTS) pipeline/install/sam2.txt | .venv/bin/python
	@echo "installing training into .venv"
	@$(INSTALL) --editable '.[training]'
	@SAM2_BUILD_CUDA=0 $(PYTHON) -m pip install --quiet --disable-pip-version-check \
	  --no-build-isolation --no-deps --require-hashes --requirement pipeline/install/sam2.txt
	@$(PYTHON) -m pipeline.install.check training
	@mkdir -p $(STAMPS) && touch $@
