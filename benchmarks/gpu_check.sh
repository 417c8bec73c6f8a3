#!/bin/sh
# Everything a CUDA machine can say about this checkout, in under ten minutes: see gpu_check.py.
#   benchmarks/gpu_check.sh                on a machine with a GPU
#   benchmarks/gpu_check.sh --rehearse     anywhere: the emulator in place of the device
set -eu
cd "$(dirname "$0")/.."
exec "${PYTHON:-python3}" benchmarks/gpu_check.py "$@"
