# Everything a newcomer needs: `make demo` and `make test`. Both set up .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Processes for the tests; each one runs torch on its own thread.
JOBS ?= 2
SANITIZED := $(CURDIR)/build/sanitize
OLDEST := .venv-oldest

.PHONY: demo test test-oldest fuzz sanitize lint format docs tables install clean

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

# Random files, networks and operators, so long each. A seed of 0 .. 65535 makes the same cases again.
MINUTES ?= 10
SEED ?=
fuzz: install
	@seed=$(or $(SEED),$$(od -An -N2 -tu2 /dev/urandom | tr -d ' ')); failed=0; \
	for part in files networks operators; do \
		echo "tests/fuzz/$$part.py --seed $$seed --minutes $(MINUTES)"; \
		OMP_NUM_THREADS=1 $(BIN)/python tests/fuzz/$$part.py --seed $$seed --minutes $(MINUTES) || failed=1; \
	done; exit $$failed

# The compiled kernels in a build of their own that stops at the first wrong address or undefined operation. Its runtime
# must be there before Python is, and libstdc++ with it, which it wraps for C++ exceptions. The report goes past pytest.
sanitize: install
	@command -v cmake >/dev/null || test -x $(BIN)/cmake || $(BIN)/python -m pip install --quiet cmake
	@PATH="$$PATH:$(CURDIR)/$(BIN)" && cmake -S . -B $(SANITIZED) -DTRANSPIKE_SANITIZE=ON \
		-DPython_EXECUTABLE=$(CURDIR)/$(BIN)/python >/dev/null && cmake --build $(SANITIZED) --parallel $(JOBS)
	@native=$$(ls $(SANITIZED)/_native*.so) && \
	runtime=$$(ldd $$native | awk '/libasan|libstdc\+\+/ {print $$3}' | xargs) && \
	case "$$runtime" in *libasan*libstdc++*) ;; *) \
		echo "make sanitize needs GCC's shared libasan and libstdc++, but $$native links: $$runtime" >&2; \
		echo "  fix: rm -r $(SANITIZED) && make sanitize CXX=g++" >&2; exit 1;; \
	esac && \
	LD_PRELOAD="$$runtime" TRANSPIKE_TEST_NATIVE=$$native TRANSPIKE_TEST_THREADS=2 OMP_NUM_THREADS=2 \
		OMP_WAIT_POLICY=passive ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 \
		$(BIN)/python -m pytest --capture=sys \
		tests/kernels/test_native.py tests/kernels/test_events.py tests/kernels/test_counts.py \
		tests/kernels/test_pairs.py tests/kernels/test_pooling.py tests/kernels/test_chain.py \
		tests/kernels/test_image.py tests/kernels/test_narrow.py \
		tests/engine/test_engine.py tests/engine/test_engine_counts.py

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
	$(BIN)/python docs/figures.py docs/images accuracy-latency

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml CMakeLists.txt $(wildcard native/*)
	@$(PYTHON) -c 'import sys; sys.exit("transpike needs Python 3.11 or newer; set PYTHON=...") if sys.version_info < (3, 11) else None'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) $(OLDEST) build dist docs/_build docs/_generated docs/api/generated .mypy_cache .ruff_cache .pytest_cache .hypothesis
