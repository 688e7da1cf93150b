# Everything a newcomer needs: `make demo` and `make test`. Both set up .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Processes for the tests; each one runs torch on its own thread.
JOBS ?= 2
SANITIZED := $(CURDIR)/build/sanitize
OLDEST := .venv-oldest
INTEROP := .venv-interop

.PHONY: demo test test-oldest interop fuzz sanitize sanitize-memory sanitize-threads lint format docs tables wheel install clean

demo: install
	$(BIN)/transpike run digits

test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS)

# All tests with the oldest PyTorch that is supported, in an environment of its own.
test-oldest: $(OLDEST)/.installed
	OMP_NUM_THREADS=1 $(OLDEST)/bin/python -m pytest -n $(JOBS)

$(OLDEST)/.installed: pyproject.toml CMakeLists.txt $(wildcard native/*) $(wildcard src/transpike/*/*.py)
	test -x $(OLDEST)/bin/python || $(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/python -m pip install --quiet --disable-pip-version-check 'torch==2.8.*' 'torchvision==0.23.*' '.[dev]'
	touch $@

# What is exported, in the simulators that it is exported for: an environment of its own that borrows PyTorch and transpike
# from .venv. Without their dependencies, since sinabs asks for nir <= 1.0.4, which has no event trains, and SpikingJelly
# for nir >= 1.0.7; what they import is named here.
SIMULATORS := sinabs==3.1.3 norse==1.1.0 spikingjelly==2.0.0 snntorch==1.0.0 spyx==1.0.0 nirtorch==2.6 nir==1.0.8
THEIR_IMPORTS := pbr h5py loguru tensorboard flax grain jax jax-tqdm optax
interop: $(INTEROP)/.installed
	OMP_NUM_THREADS=1 $(INTEROP)/bin/python -m pytest tests/interop/test_nir_readers.py tests/interop/test_spikingjelly_module.py

$(INTEROP)/.installed: Makefile | install
	test -x $(INTEROP)/bin/python || $(PYTHON) -m venv $(INTEROP)
	$(BIN)/python -c 'import sysconfig as s; print("import site; site.addsitedir(%r)" % s.get_path("purelib"))' \
		> $$($(INTEROP)/bin/python -c 'import sysconfig as s; print(s.get_path("purelib"))')/borrowed.pth
	$(INTEROP)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps $(SIMULATORS)
	$(INTEROP)/bin/python -m pip install --quiet --disable-pip-version-check $(THEIR_IMPORTS)
	touch $@

# Random files, networks and operators, so long each. A seed of 0 .. 65535 makes the same cases again.
MINUTES ?= 10
SEED ?=
fuzz: install
	@seed=$(or $(SEED),$$(od -An -N2 -tu2 /dev/urandom | tr -d ' ')); failed=0; \
	for part in files networks operators; do \
		echo "tests/fuzz/$$part.py --seed $$seed --minutes $(MINUTES)"; \
		OMP_NUM_THREADS=1 $(BIN)/python tests/fuzz/$$part.py --seed $$seed --minutes $(MINUTES) || failed=1; \
	done; exit $$failed

# The compiled kernels in builds of their own that stop at the first wrong address or undefined operation, and at the first
# data race. The sanitizer's runtime must be there before Python is, and libstdc++ with it, which it wraps for C++
# exceptions. The report goes past pytest.
sanitize: sanitize-memory sanitize-threads

# allocator_may_return_null: a test asks for more memory than there can be.
sanitize-memory: SANITIZERS := address,undefined
sanitize-memory: RUNTIME := libasan
sanitize-memory: OPTIONS := ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1 UBSAN_OPTIONS=print_stacktrace=1
sanitize-memory: install
	@$(SANITIZE) \
		tests/kernels/test_native.py tests/kernels/test_events.py tests/kernels/test_counts.py \
		tests/kernels/test_pairs.py tests/kernels/test_pooling.py tests/kernels/test_chain.py \
		tests/kernels/test_image.py tests/kernels/test_narrow.py tests/kernels/test_threads.py \
		tests/kernels/test_signed_digits.py \
		tests/engine/test_engine.py tests/engine/test_engine_counts.py

# ignore_noninstrumented_modules: Python and torch are not built for the sanitizer, so it does not see how their threads
# wait for each other. die_after_fork: the tests run the kernels in forked processes. setarch: without random addresses,
# of which some kernels of Linux have more than the runtime can take.
sanitize-threads: SANITIZERS := thread
sanitize-threads: RUNTIME := libtsan
sanitize-threads: OPTIONS := TSAN_OPTIONS=ignore_noninstrumented_modules=1:halt_on_error=1:die_after_fork=0:allocator_may_return_null=1 \
	$(shell setarch -R true 2>/dev/null && echo setarch -R)
sanitize-threads: install
	@$(SANITIZE) \
		tests/kernels/test_threads.py tests/kernels/test_chain.py tests/kernels/test_events.py \
		tests/kernels/test_counts.py tests/kernels/test_pairs.py tests/kernels/test_pooling.py \
		tests/kernels/test_image.py tests/kernels/test_signed_digits.py tests/engine/test_engine.py \
		tests/engine/test_engine_counts.py

# Builds with $(SANITIZERS) and begins a run of pytest, to which tests are to be added.
SANITIZE = set -e; folder=$(SANITIZED)/$(RUNTIME); export PATH="$$PATH:$(CURDIR)/$(BIN)"; \
	command -v cmake >/dev/null || $(BIN)/python -m pip install --quiet cmake; \
	cmake -S . -B $$folder -DTRANSPIKE_SANITIZE=$(SANITIZERS) -DPython_EXECUTABLE=$(CURDIR)/$(BIN)/python >/dev/null; \
	cmake --build $$folder --parallel $(JOBS); \
	native=$$(ls $$folder/_native*.so); \
	runtime=$$(ldd $$native | awk '/$(RUNTIME)|libstdc\+\+/ {print $$3}' | xargs); \
	case "$$runtime" in *$(RUNTIME)*libstdc++*) ;; *) \
		echo "make sanitize needs GCC's shared $(RUNTIME) and libstdc++, but $$native links: $$runtime" >&2; \
		echo "  fix: rm -r $(SANITIZED) && make sanitize CXX=g++" >&2; exit 1;; \
	esac; \
	env LD_PRELOAD="$$runtime" TRANSPIKE_TEST_NATIVE=$$native TRANSPIKE_TEST_THREADS=3 OMP_NUM_THREADS=3 $(OPTIONS) \
		$(BIN)/python -m pytest --capture=sys

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The documentation, warnings as errors; its notebooks are executed.
docs: $(VENV)/.docs
	$(BIN)/python -m sphinx -W --keep-going -b html docs docs/_build/html

$(VENV)/.docs: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[docs]'
	touch $@

# The tables and the picture in README.md, from results/.
tables: install
	$(BIN)/python docs/tables.py --write README.md
	$(BIN)/python docs/tables.py --write docs/results/papers.md
	$(BIN)/python docs/figures.py docs/images accuracy-latency

# One wheel, for this kind of machine and this version of Python.
wheel: install
	$(BIN)/python -m build --wheel --no-isolation --outdir dist

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml CMakeLists.txt $(wildcard native/*)
	@$(PYTHON) -c 'import sys; sys.exit("transpike needs Python 3.11 or newer; set PYTHON=...") if sys.version_info < (3, 11) else None'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) $(OLDEST) build dist docs/_build docs/_generated docs/api/generated .mypy_cache .ruff_cache .pytest_cache .hypothesis
