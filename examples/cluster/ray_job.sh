#!/usr/bin/env bash
# Trains on a Ray cluster that is there already, as a job of it: the run goes on when this terminal is closed.
#   RAY_API_SERVER_ADDRESS=http://HEAD:8265 examples/cluster/ray_job.sh /shared/outputs 2 reward=ndcg model=qwen7b
# Arguments: the outputs' folder, on one path on all machines; how many machines; then run.py's. The cluster has rearank's
# environment (the extra `cluster`); this checkout's files are sent along. A token (RAY_AUTH_TOKEN) is read from here.
# The same command again goes on from the last checkpoint.
set -euo pipefail
OUTPUTS=$1 MACHINES=$2
shift 2
cd "$(dirname "$0")/../.."
# Ray writes down what a job's runtime environment says: no secrets in it. What is exported before `ray start` on the
# machines, and +cluster.env.NAME=..., reaches every process, too.
exec "${RAY:-ray}" job submit --no-wait --working-dir . \
  --runtime-env-json '{"excludes": [".git", ".venv*", "outputs", "tests", "data"], "env_vars": {"PYTHONPATH": "src"}}' \
  -- python run.py "$@" paths.outputs="$OUTPUTS" cluster.address=auto cluster.nodes="$MACHINES"
