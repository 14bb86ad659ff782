#!/usr/bin/env bash
# What a slot of the pool runs inside the container: one scan worker, until it is told to stop or its time is over.
#   run-scan-worker.sh HOURS
# Needs scan-worker.seed beside it, which logs in at the broker, and, where no public authority signed the broker's
# certificate, ca.crt. The rest comes from the environment that scan-worker.sub sets.
set -euo pipefail
hours=${1:?how many hours to run is missing: run-scan-worker.sh HOURS}

if [ ! -s scan-worker.seed ]; then
  echo "the file scan-worker.seed did not come along; it logs in at NATS, and transfer_input_files must name it" >&2
  exit 2
fi
export ICESTREAM_SCAN_WORKER_NATS_SEED=$PWD/scan-worker.seed
if [ -s ca.crt ]; then
  export ICESTREAM_SCAN_WORKER_NATS_CA=$PWD/ca.crt
fi

# The image cannot be written, and the network is that of the machine, which other workers use as well.
scratch=${_CONDOR_SCRATCH_DIR:-$PWD}
export NUMBA_CACHE_DIR=$scratch/kernels
export ICESTREAM_SCAN_WORKER_METRICS_HOST=127.0.0.1 ICESTREAM_SCAN_WORKER_METRICS_PORT=0

# SIGTERM of the pool goes through `timeout` to the worker, which hands its batches back and ends with status 0. So it
# does when its hours are over: a worker without work would keep the slot for ever.
exec timeout --preserve-status --kill-after=20s "${hours}h" python -m services.scanner.worker
