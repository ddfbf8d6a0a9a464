#!/usr/bin/env bash
# Trains on SLURM: Ray over the job's machines, a requeue when the time is nearly up, and on from the last checkpoint.
#   sbatch --partition=gpu examples/cluster/slurm.sh reward=ndcg model=qwen7b
# The arguments are run.py's. Submit from the checkout; it, the weights and paths.outputs are on one path everywhere.
#SBATCH --job-name=rearank
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64     # 8 trainers, 8 rollout engines and 16 workers, two cores each
#SBATCH --mem=0                # all of a machine's: Ray's object store and eight models on their way to the GPUs
#SBATCH --time=24:00:00        # less than a whole training takes on most GPUs: it is requeued, as often as it needs
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@300    # to this script, five minutes before the end
#SBATCH --output=rearank-%j.log
set -euo pipefail

# Where the environment is; its bin/ has python and ray.
VENV=${VENV:-.venv}
PORT=${RAY_PORT:-$((20000 + SLURM_JOB_ID % 10000))}
# Before `ray start`: every process of the cluster then has them. HF_HOME must be a folder that all machines see.
#   export NCCL_SOCKET_IFNAME=eth0 GLOO_SOCKET_IFNAME=eth0 HF_HOME=/shared/huggingface
# One token for this job's Ray: nobody else on these machines can use it. srun passes the environment on.
RAY_AUTH_TOKEN=$(od -An -N32 -tx1 /dev/urandom | tr -d ' \n')
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN
# An engine that a killed worker leaves ends with its machine's Ray.
export RAY_kill_child_processes_on_worker_exit_with_raylet_subreaper=true

mapfile -t MACHINES < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
HEAD=${MACHINES[0]}
ADDRESS=$(getent ahostsv4 "$HEAD" | awk 'NR == 1 {print $1}'):$PORT
LOCAL=(--num-gpus="$SLURM_GPUS_ON_NODE" --num-cpus="${RAY_CPUS:-$((10 * SLURM_GPUS_ON_NODE + 16))}" --block)

RAY=()
TRAINING=
stop() {  # Ctrl-C to the training, and to Ray what srun passes on
  if [ -n "$TRAINING" ]; then
    kill -TERM "$TRAINING" 2>/dev/null || true
    wait "$TRAINING" || true
  fi
  kill -TERM "${RAY[@]}" 2>/dev/null || true
  wait "${RAY[@]}" || true
}
requeue() {
  trap '' USR1 TERM
  echo "the time is nearly up: stopping, and requeueing job $SLURM_JOB_ID"
  stop
  scontrol requeue "$SLURM_JOB_ID"
  exit 0
}
trap requeue USR1
trap 'stop; exit 143' TERM INT  # scancel

echo "Ray on ${MACHINES[*]}, head $ADDRESS, restart ${SLURM_RESTART_COUNT:-0}"
STEP=(srun --nodes=1 --ntasks=1 --cpus-per-task="$SLURM_CPUS_PER_TASK")  # srun doesn't take it over by itself
"${STEP[@]}" --nodelist="$HEAD" \
  "$VENV/bin/ray" start --head --node-ip-address="${ADDRESS%:*}" --port="$PORT" --include-dashboard=false "${LOCAL[@]}" &
RAY+=($!)
for _ in {1..120}; do  # the others find it only once it is there
  (exec 3<>"/dev/tcp/${ADDRESS%:*}/$PORT") 2>/dev/null && break
  sleep 1
done
for machine in "${MACHINES[@]:1}"; do
  "${STEP[@]}" --nodelist="$machine" "$VENV/bin/ray" start --address="$ADDRESS" "${LOCAL[@]}" &
  RAY+=($!)
done

# In the background, so that a signal is dealt with at once and not when it ends.
"$VENV/bin/python" examples/cluster/wait_for_machines.py "$ADDRESS" "${#MACHINES[@]}" &
TRAINING=$!
wait "$TRAINING" || { stop; exit 1; }
"$VENV/bin/python" run.py "$@" cluster.address="$ADDRESS" cluster.nodes="${#MACHINES[@]}" \
  cluster.gpus_per_node="$SLURM_GPUS_ON_NODE" &
TRAINING=$!
status=0
wait "$TRAINING" || status=$?
TRAINING=
stop
exit "$status"
