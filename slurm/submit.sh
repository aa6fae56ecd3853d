#!/bin/bash
# Submit a list of data sets:   slurm/submit.sh LIST -b 2 -s 2 -H 16 -c bslz4
# LIST holds the path of a master a line; words after it are bnl-mpi's own. The number of ranks and the time limit
# follow from the largest set's size. A last job, which waits for all of them, names the sets that failed, and fails
# if one did.
# Environment: BNL_OUT, BNL_SUFFIX, BNL_PYTHON, BNL_SRUN; BNL_RANKS, BNL_MINUTES (in place of what is worked out),
# BNL_AT_A_TIME (sets at a time, default 4), BNL_WAIT=1 (wait for the end and return its status),
# BNL_SBATCH (more options for every sbatch, as "-A account -p partition").
set -eu
here=$(cd "$(dirname "$0")" && pwd)
out=${BNL_OUT:-$PWD}
suffix=${BNL_SUFFIX:-_bnl}

if [ "${1:-}" = --report ]; then
    # The last job: which sets have no master, that is, are not finished?
    failed=0
    while IFS= read -r master; do
        [ -n "$master" ] || continue
        result=$out/$(basename "$master" _master.h5)${suffix}_master.h5
        if [ ! -e "$result" ]; then
            echo "failed: $master (no $result)"
            failed=$((failed + 1))
        fi
    done < "$2"
    echo "$failed of the sets in $2 failed"
    [ "$failed" = 0 ]
    exit
fi

if [ $# = 0 ] || [ ! -s "$1" ]; then
    echo "usage: $0 LIST [bnl-mpi's options]; LIST is a file with the path of a master a line" >&2
    exit 2
fi
list=$(realpath "$1")
shift

# One worker for each GB of the largest set, 2 to 32 of them, and a rank for the masters.
largest=0
while IFS= read -r master; do
    [ -n "$master" ] || continue
    bytes=$(du -cbL "${master%_master.h5}"_data_*.h5 2>/dev/null | tail -n 1 | cut -f 1)
    [ "${bytes:-0}" -le "$largest" ] || largest=$bytes
done < "$list"
gigabytes=$((largest / 1000000000 + 1))
workers=$((gigabytes < 2 ? 2 : gigabytes > 32 ? 32 : gigabytes))
ranks=${BNL_RANKS:-$((workers + 1))}
# 20 MB of stored data a second and worker is slow for all but -J; a job that needs longer is requeued and goes on.
minutes=${BNL_MINUTES:-$((10 + largest / 20000000 / workers / 60))}

export BNL_OUT="$out" BNL_SUFFIX="$suffix"
job=$(sbatch --parsable ${BNL_SBATCH:-} --array="1-$(grep -c '' "$list")%${BNL_AT_A_TIME:-4}" --ntasks="$ranks" \
    --time="$minutes" "$here/many_datasets.sbatch" "$list" "$@")
echo "job $job: $(grep -c '' "$list") data sets, $ranks ranks each, $minutes minutes"

# afterany, not afterok: it is to tell of failures too.
wait_option=
[ "${BNL_WAIT:-0}" = 0 ] || wait_option=--wait
report=$(printf '%q --report %q' "$here/submit.sh" "$list")
# shellcheck disable=SC2086
sbatch ${BNL_SBATCH:-} $wait_option --dependency="afterany:${job%%;*}" --kill-on-invalid-dep=yes --ntasks=1 --time=5 \
    --job-name=bnl_mpi_report --output="bnl_mpi_report_${job%%;*}.log" --wrap="$report"
