# make demo: the whole job on the embedded dataset. make test: lint, types, tests. make bench: speed, against peers.
# make box: train the model that comes with the package.
# Each sets everything up first.
PYTHON ?= python3
EXTRAS ?= train,dicom,notebook,serve,hub,dev
VENV := .venv
BIN := $(VENV)/bin
comma := ,
READY := $(VENV)/.ready-$(subst $(comma),-,$(EXTRAS))

# how pip takes only what is known by its hash, and the files that say so
HASHED := --require-hashes --no-deps --only-binary :all:
LOCKED := $(wildcard requirements/*.txt)

# the images that the model in the box learns from; fetched from the ISIC Archive where they are not there
BOX_DATA ?= $(firstword $(wildcard ../shared/data/isic) build/isic)
# what its MobileNets start from: a file, or what Keras fetches
BOX_WEIGHTS ?= $(firstword $(wildcard ../shared/data/weights/mobilenet_alpha0.75_224_imagenet_no_top.weights.h5) imagenet)
# by another seed: make box BOX_SEED=3
BOX_RUNS := $(addsuffix $(if $(BOX_SEED),.seed-$(BOX_SEED)),runs/box runs/box_mobilenet)

.PHONY: setup demo test lint types docs box $(BOX_RUNS) bench fuzz audit renew clean

setup: $(READY)

demo: $(READY)
	$(BIN)/melanoma demo

test: lint types
	$(BIN)/pytest --numprocesses auto --maxprocesses 4 --dist loadfile

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/mypy

# what was tested is what is installed, file by file; PyTorch alone has no hash here, as its builds differ by platform
$(READY): pyproject.toml constraints.txt $(LOCKED)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; name one with make PYTHON=python3.12")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@# first the core, with a pip that is quicker than the one that Python brings
	$(BIN)/python -m pip install --quiet $(HASHED) -r requirements/core.txt
	$(BIN)/python -m pip install --quiet $(HASHED) $(foreach part,core $(subst $(comma), ,$(EXTRAS)),-r requirements/$(part).txt)
	$(if $(findstring train,$(EXTRAS)),$(BIN)/python -m pip install --quiet --only-binary :all: --constraint constraints.txt torch)
	$(BIN)/python -m pip install -qq --no-deps --no-build-isolation --no-index --editable .
	@# so that starting is quick where Python may not keep what it compiles (PYTHONDONTWRITEBYTECODE)
	@$(BIN)/python -m compileall -q melanoma
	@rm -f $(VENV)/.ready-*
	@touch $@

docs: $(READY)
	$(BIN)/python docs/generate.py

# melanoma/box and what it said of images that it had not seen; an interrupted run goes on. Under two hours on two
# cores: see docs/box.md
box:
	$(MAKE) $(VENV)/.ready-train-lite EXTRAS=train,lite
	test -f $(BOX_DATA)/train.csv || { $(MAKE) $(VENV)/.ready-train-lite-download EXTRAS=train,lite,download && \
	  $(BIN)/melanoma download isic $(BOX_DATA) --names docs/box/folds.csv; }
	$(MAKE) $(BOX_RUNS)
	$(BIN)/melanoma export $(BOX_RUNS) --to build/box
	$(BIN)/melanoma export build/box --to melanoma/box
	cp build/box-report/predictions.csv docs/box/
	test ! -f build/box-report/submission.csv || cp build/box-report/submission.csv docs/box/
	$(BIN)/python benchmarks/box.py $(BOX_RUNS) --against docs/box/predictions.csv

# PyTorch trains quicker than JAX or TensorFlow here, and the box was trained by it
$(BOX_RUNS):
	if test -d $@; then KERAS_BACKEND=torch $(BIN)/melanoma resume $@; \
	  else KERAS_BACKEND=torch $(BIN)/melanoma run $(BOX_DATA) --recipe $(basename $(notdir $@)) --name $(notdir $@) \
	  $(if $(BOX_SEED),--set seed=$(BOX_SEED)) --set folds.file=docs/box/folds.csv \
	  --set model.weights=$(if $(findstring mobilenet,$@),$(BOX_WEIGHTS),imagenet); fi

# every table of docs/speed.md; needs the machine for itself for about an hour
bench:
	$(MAKE) $(VENV)/.ready-train-jax-tensorflow-openvino-bench-dev EXTRAS=train,jax,tensorflow,openvino,bench,dev
	@# timm asks for torchvision, and that for its own build of PyTorch: both are taken without what they ask for
	$(BIN)/python -m pip install --quiet --no-deps timm==1.0.31 torchvision==0.28.0
	$(BIN)/python benchmarks/decode.py
	$(BIN)/python benchmarks/prepare.py
	$(BIN)/python benchmarks/prepare.py --images small
	$(BIN)/python benchmarks/prepare.py --memory
	@# needs the official SIIM-ISIC 2020 tables, and a folder of real images; the peer imagehash where it is installed
	test ! -d ../shared/data/isic || $(BIN)/python benchmarks/duplicates.py --data ../shared/data/isic
	test ! -d ../shared/data/siim2020 || $(BIN)/python benchmarks/evidence.py --data ../shared/data/siim2020 \
	  --sizes ../shared/data/siim2020/train_image_sizes.csv
	$(BIN)/python benchmarks/train.py --stacks ours pytorch keras-torch keras-tensorflow-float32 keras-tensorflow
	$(BIN)/python benchmarks/alike.py
	$(BIN)/python benchmarks/train.py --stacks ours pytorch --batch 32 --pairs 3
	$(BIN)/python benchmarks/fit.py
	$(BIN)/python benchmarks/score.py --stacks "melanoma, default engine" "melanoma, ONNX Runtime" \
	  "ONNX Runtime, as PyTorch exports it, fp32" "OpenVINO LATENCY, our export, fp32" "OpenVINO LATENCY, our export, bf16"
	$(BIN)/python benchmarks/score.py --stacks "melanoma, default engine" "melanoma, int8" \
	  "PyTorch channels last, fp32" "PyTorch channels last, bf16" "the same compiled, fp32" "the same compiled, bf16"
	$(BIN)/python benchmarks/score.py --stacks "melanoma, default engine" \
	  "Keras predict on PyTorch, fp32" "Keras predict on TensorFlow, fp32"

# damaged files against every front end, 20 minutes each, whatever escapes from one; what escaped is in build/fuzz
fuzz: $(READY)
	@failed=0; for front in jpeg pictures dicom tfrecord csv; do \
	  PYTHONPATH=. $(BIN)/python tests/fuzz.py $$front --seconds 1200 || failed=1; done; exit $$failed

# are weaknesses known of what is pinned? asks PyPI
audit: $(VENV)/tools
	sed -n 's/^\([^ ]*==[^ ]*\).*/\1/p' constraints.txt $(LOCKED) | sort -u > $(VENV)/pins.txt
	$(VENV)/tools/bin/pip-audit --strict --no-deps --disable-pip -r $(VENV)/pins.txt

# after a pin or a dependency changed
renew: $(VENV)/tools
	PATH=$(VENV)/tools/bin:$$PATH $(PYTHON) requirements/renew.py

$(VENV)/tools:
	$(PYTHON) -m venv $@
	$@/bin/python -m pip install --quiet uv pip-audit || { rm -r $@; false; }

clean:
	rm -rf $(VENV) build *.egg-info
