#!/usr/bin/env bash
#SBATCH --job-name=panoramas
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --mem-per-cpu=4G
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --no-kill
#SBATCH --open-mode=append
#SBATCH --signal=B:TERM@120
#
# Starts a Ray on all nodes of a Slurm job, runs `make render` on it, and ends it.
#
#   sbatch pipeline/clusters/slurm.sh SCENES=1000 PROFILE=cpu OUT=/shared/out
#
# Submit it in the root of a checkout that all nodes see, after `make setup`. Arguments after the
# script go to `make render`; options of sbatch go before it and override those above.
# docs/cluster.md says more. The options above mean: a job returns to the queue when its first node
# fails (--requeue), continues when another node fails (--no-kill), and the driver is asked to stop
# two minutes before the time is over (--signal). The same line then resumes the run in OUT.
set -euo pipefail

readonly WAIT_SECONDS=300 # for nodes that boot slowly; then work starts without them
readonly OBJECT_STORE=$((100 * 1024 * 1024)) # only results travel through Ray, scenes are files

fail() {
  printf 'slurm.sh: %s\n' "$1" >&2
  exit 2
}

: "${SLURM_JOB_ID:?submit this script with sbatch}"
for setting in "$@"; do
  [[ $setting =~ ^[A-Z][A-Z0-9_]*= ]] || fail "$setting is no setting; write NAME=VALUE"
done

# Slurm runs a copy of this script from another folder.
checkout="${SLURM_SUBMIT_DIR:?}"
python="$checkout/.venv/bin/python"
ray="$checkout/.venv/bin/ray"
[[ -x $python && -x $ray ]] || fail "no .venv in $checkout; submit in the checkout, after make setup"
cd -- "$checkout"

scratch="${SLURM_TMPDIR:-${TMPDIR:-/tmp}}"
# Not /tmp/ray, which may be another user's on a shared node. Short, because it holds sockets.
temporary="/tmp/ray-$SLURM_JOB_ID"
# Outside the ports that Ray gives to workers and the kernel to connections.
port=$((20000 + SLURM_JOB_ID % 12000))
export RAY_USAGE_STATS_ENABLED=0
export RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S=0 # Ray ends after the driver: nothing to wait for
# Ray refuses clients without the job's token.
RAY_AUTH_TOKEN="$("$python" -c 'import secrets; print(secrets.token_hex(32))')"
export RAY_AUTH_TOKEN RAY_AUTH_MODE=token

# The groups of a heterogeneous job (nodes with GPUs and nodes without) are asked for one by one.
groups=()
hosts=()
for ((group = 0; group < ${SLURM_HET_SIZE:-0}; group++)); do
  groups+=("--het-group=$group")
  list="SLURM_JOB_NODELIST_HET_GROUP_$group"
  names="$(scontrol show hostnames "${!list}")"
  mapfile -t -O "${#hosts[@]}" hosts <<<"$names"
done
if ((${#groups[@]} == 0)); then
  groups=("")
  names="$(scontrol show hostnames "${SLURM_JOB_NODELIST:?}")"
  mapfile -t hosts <<<"$names"
fi

# The address that the other nodes see. Nothing is sent: a UDP socket only looks up the route. A job
# of one node stays on the loopback interface, where nobody else reaches it.
address="$(
  "$python" - "${hosts[1]:-127.0.0.1}" <<'PYTHON'
import socket
import sys

with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
    probe.connect((sys.argv[1], 9))
    print(probe.getsockname()[0])
PYTHON
)"
if [[ $address == 127.* ]]; then
  # otherwise Ray takes another address of this machine
  export RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0
fi

# What each node runs: the first one a head, which also works, the others a worker.
IFS= read -r -d '' node <<'NODE' || true
set -euo pipefail
ray="$1" address="$2" port="$3" temporary="$4" scratch="$5" store="$6" group="$7" python="$8"
mkdir -p -- "$scratch"
# Ray itself would take all memory of the machine, not what the job may use.
memory="$("$python" -c 'from pipeline.farm.run_child import machine_memory; print(9 * machine_memory() // 10)')"
options=(
  --block # until this step ends, which ends this Ray and no other
  --num-cpus="${SLURM_CPUS_ON_NODE:?}"
  --num-gpus="${SLURM_GPUS_ON_NODE:-0}"
  --memory="$memory"
  --object-store-memory="$store"
  --temp-dir="$temporary"
  --min-worker-port=0 # any free ones: the node may have another job's Ray
  --max-worker-port=0
)
if [[ $group == 0 && ${SLURM_PROCID:?} == 0 ]]; then
  exec "$ray" start --head --node-ip-address="$address" --port="$port" --include-dashboard=false \
    "${options[@]}"
fi
until (exec 3<>"/dev/tcp/$address/$port") 2>/dev/null; do
  sleep 1
done
exec "$ray" start --address="$address:$port" "${options[@]}"
NODE

# One task on every node, which may use all that the job has there; a node that fails ends no other.
each_node=(--ntasks-per-node=1 --cpu-bind=none --kill-on-bad-exit=0 --wait=0 --no-kill)

steps=()
work=""
asked=0

ask_to_stop() {
  asked=1
  if [[ -n $work ]]; then
    kill -TERM "$work" 2>/dev/null || true
  fi
}

end_ray() {
  local status=$?
  trap - EXIT
  trap '' TERM
  if ((${#steps[@]})); then
    kill -TERM "${steps[@]}" 2>/dev/null || true
    wait "${steps[@]}" 2>/dev/null || true
    for group in "${groups[@]}"; do
      timeout 60 srun "${each_node[@]}" ${group:+"$group"} rm -rf -- "$temporary" </dev/null || true
    done
  fi
  exit "$status"
}

trap ask_to_stop TERM
trap end_ray EXIT

for index in "${!groups[@]}"; do
  srun "${each_node[@]}" ${groups[index]:+"${groups[index]}"} bash -c "$node" node \
    "$ray" "$address" "$port" "$temporary" "$scratch" "$OBJECT_STORE" "$index" "$python" &
  steps+=("$!")
done

# Waits for a background process, also when a signal comes in between; gives its exit status.
wait_for() {
  local status=0
  while kill -0 "$1" 2>/dev/null; do
    wait "$1" || true
  done
  wait "$1" || status=$?
  return "$status"
}

"$python" - "$address" "$port" "${#hosts[@]}" "$WAIT_SECONDS" "${steps[0]}" <<'PYTHON' &
import logging
import os
import socket
import sys
import time

import ray

address, port, nodes, seconds, step = sys.argv[1], *map(int, sys.argv[2:])
end = time.monotonic() + seconds
while True:  # until the port answers, because Ray itself would report each failed try
    try:
        os.kill(step, 0)
        socket.create_connection((address, port), timeout=5).close()
        break
    except OSError as error:
        if isinstance(error, ProcessLookupError) or time.monotonic() > end:
            sys.exit("slurm.sh: the head of Ray did not start; its reason stands above")
        time.sleep(1)
ray.init(address=f"{address}:{port}", log_to_driver=False, logging_level=logging.ERROR)
while (found := sum(node["Alive"] for node in ray.nodes())) < nodes and time.monotonic() < end:
    time.sleep(1)
print(f"slurm.sh: {found} of {nodes} nodes are in", flush=True)
PYTHON
work=$!
wait_for "$work"
work=""
if ((asked)); then
  exit 143 # 128 + SIGTERM
fi

make render RAY_ADDRESS="$address:$port" SCRATCH="$scratch" "$@" &
work=$!
if ((asked)); then # between the two lines above
  ask_to_stop
fi
wait_for "$work"
