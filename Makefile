# Every command of the project. The environment lives in .venv; VENV=path uses another one.
VENV ?= .venv
PYTHON ?= python3
WORKERS ?= $(shell nproc)
EXTRAS ?= test,train,peers,export,dev
PY := $(VENV)/bin/python
STAMP := $(VENV)/.trpo_fast_installed
CXX_SOURCES = $(shell find csrc tests $(wildcard benchmarks) -name '*.cpp' -o -name '*.h' -o -name '*.inc' \
	-o -name '*.cu' -o -name '*.cuh')

# Here a missing compiler is an error, not a reason to test the pure Python package.
export TRPO_FAST_REQUIRE_NATIVE = 1
# The CUDA half takes minutes to compile; without a device the tests emulate it, so it stays out there.
export TRPO_FAST_CUDA ?= $(if $(wildcard /dev/nvidiactl),auto,0)

.PHONY: help venv install build emulation test attack sb3-contrib libraries simulators lint reference format train \
	check-cuda wide bench clean
.DEFAULT_GOAL := help

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(PY):
	$(PYTHON) -m venv $(VENV)

venv: $(PY)  ## make the virtual environment

$(STAMP): $(PY) pyproject.toml constraints.txt trpo_fast/_version.py
	$(PY) -m pip install -q -c constraints.txt setuptools pybind11 ninja
	$(PY) -m pip install -q -c constraints.txt --no-build-isolation -e '.[$(EXTRAS)]'
	touch $@

install: $(STAMP)  ## install the pinned dependencies and the package, editable, native half required

build: install  ## rebuild what changed under csrc (TRPO_FAST_CUDA=0|1|auto)
	$(PY) setup.py -q build_ext --inplace

emulation: install  ## build the CUDA kernels for the host, for TRPO_FAST_EMULATE=1
	$(PY) tests/emulation/build.py library

test: build emulation  ## run every test
	OMP_NUM_THREADS=1 $(PY) -m pytest -q -n $(WORKERS) --durations=10 tests

attack: build emulation  ## hostile tensors, environments, files, signals, words; n times as many with TRPO_FAST_CAMPAIGN=n
	OMP_NUM_THREADS=1 $(PY) -m pytest -q -m attack --durations=10 tests

sb3-contrib: install  ## fetch sb3-contrib's own tests, which make test then runs with our class
	$(PY) -m pip download -q --no-deps --no-build-isolation --no-binary sb3-contrib -d build/sb3-contrib \
		sb3-contrib==$$($(PY) -c "import importlib.metadata as m; print(m.version('sb3-contrib'))")
	cd build/sb3-contrib && tar xzf sb3_contrib-*.tar.gz

# These do not resolve together with all that the tests pin: each has an environment on top of this
# one, in which only its own packages and those that it wants otherwise are installed.
LIBRARIES ?= rsl_rl skrl tianshou
REQUIREMENTS = $(PY) -c "import sys, importlib.metadata as m; print(*(r.partition(';')[0].replace(' ', '') \
	for r in m.requires('trpo-fast') if 'extra == \"' + sys.argv[1] + '\"' in r))"

libraries: $(LIBRARIES:%=library-%)  ## make environments with rsl_rl, skrl and tianshou, and run their tests

library-%: install
	$(PY) -m venv build/venvs/$*
	$(PY) -c "import site; print(site.getsitepackages()[0])" > build/venvs/under.pth
	cp build/venvs/under.pth $$(echo build/venvs/$*/lib/python3*/site-packages)/
	grep -v '^filelock==' constraints.txt > build/venvs/constraints.txt  # tianshou wants an older one
	build/venvs/$*/bin/python -m pip install -q -c build/venvs/constraints.txt \
		$$($(REQUIREMENTS) $(subst _,-,$*))
	OMP_NUM_THREADS=1 build/venvs/$*/bin/python -m pytest -q tests/integrations/$*

simulators: install  ## Brax and MuJoCo Playground in an environment of their own, and the tests that need them
	$(PY) -m venv build/simulators
	echo $$($(PY) -c "import sysconfig; print(sysconfig.get_path('purelib'))") \
		> $$(build/simulators/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")/main.pth
	build/simulators/bin/python -m pip install -q brax playground jax==0.10.2
	JAX_PLATFORMS=cpu OMP_NUM_THREADS=1 build/simulators/bin/python -m pytest -q tests/envs/test_simulators_jax.py \
		tests/envs/test_simulators_page.py

lint: install  ## ruff, mypy, clang-format
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	$(VENV)/bin/clang-format --dry-run -Werror $(CXX_SOURCES)

reference: install  ## write docs/reference/: every exported name and every setting
	PYTHONPATH=. $(PY) docs/generate/reference.py

format: install  ## rewrite the sources as lint wants them
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .
	$(VENV)/bin/clang-format -i $(CXX_SOURCES)

train: build  ## train CartPole from end to end
	$(PY) examples/train_cartpole.py

check-cuda: export TRPO_FAST_CUDA = 1
check-cuda: build  ## hold registers, spills and instructions of the CUDA kernels to their budget
	$(PY) -m pip install -q -c constraints.txt nvidia-cuda-cuobjdump nvidia-cuda-nvdisasm
	$(PY) tests/support/check_cuda.py
	$(PY) tests/support/check_triton.py

wide: build  ## products of wide nets in Triton's interpreter: every head, activation and precision with every depth
	TRPO_FAST_CAMPAIGN=1 OMP_NUM_THREADS=1 $(PY) -m pytest -q -n $(WORKERS) tests/wide

bench: build  ## run the benchmark suites
	$(PY) -m pytest benchmarks/bench_*.py --benchmark-enable --benchmark-only

clean:  ## remove what was built, keep the virtual environment
	rm -rf build dist *.egg-info trpo_fast/*.so .pytest_cache .mypy_cache .ruff_cache
