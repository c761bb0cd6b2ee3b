# Everything happens in .venv; the system is never touched.
# make demo | make test | make arm | make clean        PIP_ARGS goes to pip, e.g.
# make demo PIP_ARGS="--extra-index-url https://download.pytorch.org/whl/cpu"  (CPU-only torch)

PYTHON   ?= python3
VENV     ?= .venv
PIP_ARGS ?=
RECIPE   ?= recipes/demo.toml
OUT      ?= demo

# make arm: the emulated ARM targets in the user's cache, so that make test runs the ARM tests too.
ARM_ARGS ?=

.PHONY: demo test arm install clean

install: $(VENV)/.installed

$(VENV)/.installed: setup.cfg pyproject.toml
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check $(PIP_ARGS) --editable '.[export,executorch,litert,cluster,dev]'
	touch $@

demo: $(VENV)/.installed
	$(VENV)/bin/edgeveil run $(RECIPE) --out $(OUT)

test: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest --numprocesses=auto --dist=loadfile --no-loadscope-reorder $(PYTEST_ARGS)

arm: $(VENV)/.installed
	$(VENV)/bin/edgeveil target prepare cortex-a72 --with lite --with executorch --with litert $(ARM_ARGS)
	$(VENV)/bin/edgeveil target prepare cortex-a76 --with lite --with executorch --with litert $(ARM_ARGS)

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
