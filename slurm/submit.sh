#!/bin/bash
# Submit an archive:   slurm/submit.sh LIST_OR_FOLDER --to FOLDER -b 2 -s 2 -H 16 -c bslz4
# The words are those of `bnl-mpi archive`; this is a front of archive.sbatch, with a last job that waits for all tasks,
# tells what became of the archive, and fails if a set did.
# Environment: BNL_TASKS (parts of the archive, default 8), BNL_AT_A_TIME (of them, default 4), BNL_RANKS (of a task,
# default 9), BNL_MINUTES (default 240; what isn't done by then is requeued), BNL_PYTHON, BNL_SRUN, BNL_WAIT=1 (wait for
# the end and return its status), BNL_SBATCH (more options for every sbatch, as "-A account -p partition").
set -eu
here=$(cd "$(dirname "$0")" && pwd)
python=${BNL_PYTHON:-python3}

if [ "${1:-}" = --report ]; then
    "$python" -m bnl_mpi archive --status "$2"
    failed=$("$python" -m bnl_mpi archive --status "$2" --failed)
    [ -z "$failed" ]
    exit
fi

to=
words=("$@")
while [ $# -gt 0 ]; do
    case $1 in
        --to) to=${2:-} ;;
        --to=*) to=${1#--to=} ;;
    esac
    shift
done
if [ -z "$to" ]; then
    echo "usage: $0 LIST_OR_FOLDER --to FOLDER [bnl-mpi archive's options]" >&2
    exit 2
fi
tasks=${BNL_TASKS:-8}

job=$(sbatch --parsable ${BNL_SBATCH:-} --array="0-$((tasks - 1))%${BNL_AT_A_TIME:-4}" --ntasks="${BNL_RANKS:-9}" \
    --time="${BNL_MINUTES:-240}" "$here/archive.sbatch" "${words[@]}")
echo "job $job: $tasks tasks"

# afterany, not afterok: it is to tell of failures too.
wait_option=
[ "${BNL_WAIT:-0}" = 0 ] || wait_option=--wait
report=$(printf '%q --report %q' "$here/submit.sh" "$(realpath -m "$to")")
# shellcheck disable=SC2086
sbatch ${BNL_SBATCH:-} $wait_option --dependency="afterany:${job%%;*}" --kill-on-invalid-dep=yes --ntasks=1 --time=5 \
    --job-name=bnl_mpi_report --output="bnl_mpi_report_${job%%;*}.log" --wrap="$report"
