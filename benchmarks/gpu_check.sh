#!/bin/sh
# What a CUDA machine can say about this checkout: see gpu_check.py.
#   benchmarks/gpu_check.sh first              in four minutes, on a machine with a GPU
#   benchmarks/gpu_check.sh full               in eight
#   benchmarks/gpu_check.sh first --rehearse   anywhere: the emulator in place of the device
set -eu
cd "$(dirname "$0")/.."
exec "${PYTHON:-python3}" benchmarks/gpu_check.py "$@"
