#!/bin/sh
# The five-minute demo: simulate a small data set, reduce it three times on three ranks, make a full set of the
# smallest, see what settings would lose and whether a set is what its raw data give, and open the results.
# Usage: demo.sh FOLDER-WITH-bnl-mpi FOLDER-FOR-THE-DATA
set -eu
bin=$1
data=$2
mkdir -p "$data"

run() { echo; echo "\$ $*"; "$@"; }

[ -e "$data/lyso_master.h5" ] ||
    run "$bin/bnl-mpi" simulate "$data/lyso" --detector 1M --frames 180 --osc 0.1 --images_per_file 60
run "$bin/mpiexec" -n 3 "$bin/bnl-mpi" -i "$data/lyso_master.h5" -b 2 -s 2 -H 16 -c bslz4 -d 30 \
    -o "$data/lyso_b2s2h16" --force
run "$bin/mpiexec" -n 3 "$bin/bnl-mpi" -i "$data/lyso_master.h5" -b 2 -s 2 -J 120 -c bslz4 -d 30 \
    -o "$data/lyso_b2s2j120" --force
run "$bin/mpiexec" -n 3 "$bin/bnl-mpi" -i "$data/lyso_master.h5" -b 2 -s 2 -T 60 -c htj2k -d 30 \
    -o "$data/lyso_b2s2t60" --force
run "$bin/mpiexec" -n 3 "$bin/bnl-mpi" expand "$data/lyso_b2s2t60_master.h5" -c bslz4 -o "$data/lyso_b2s2t60x" --force
run "$bin/bnl-mpi" estimate "$data/lyso_master.h5" --try b2s2,b2s2H16,b2s2T60,b3s2 --target_ratio 50
run "$bin/bnl-mpi" verify "$data/lyso_b2s2h16_master.h5" --against "$data/lyso_master.h5"
run "$bin/bnl-mpi" report "$data/lyso_b2s2h16_master.h5" --against "$data/lyso_master.h5" -o "$data/report.html"

echo
"$bin/python" - "$data/lyso_b2s2h16_master.h5" "$data/lyso_b2s2j120_master.h5" "$data/lyso_b2s2t60_master.h5" \
    "$data/lyso_b2s2t60x_master.h5" <<'PYTHON'
import sys

import h5py
import hdf5plugin

for name in sys.argv[1:]:
    with h5py.File(name, "r") as master:
        data = master["/entry/data"]
        images = sum(len(data[key]) for key in data)
        first = data["data_000001"][0]
        print(f"{name}: {images} images of {first.shape[1]} x {first.shape[0]} open, mean count {first[first < 65535].mean():.3f}")
        assert images == 90, images
PYTHON
echo "demo: all well; the data sets are in $data"
