#!/usr/bin/env bash
# demo_cost.sh STAMPS VENV: prints the cost of `make demo`, as long as it has something to install.
set -euo pipefail
stamps=$1
venv=$2
[[ -e $stamps/package && -e $stamps/demo ]] && exit 0
if [[ ${TORCH:-} == cpu ]]; then
  torch="0.5 GB of download"
  disk=5
else
  torch="3 GB of download, most of it PyTorch with CUDA (TORCH=cpu: 0.5 GB of download, 5 GB of disk)"
  disk=8
fi
[[ -e $venv/bin/python ]] && torch="$torch, less what $venv has"
free=$(($(df --output=avail -k . | tail -1) / 1000000))
echo "make demo needs $disk GB of disk ($free GB are free here), $torch,"
echo "and 5 to 12 minutes on two processors, most of them to compile. A second run takes a minute."
if ((free < disk)); then echo "There may be too little disk." >&2; fi
