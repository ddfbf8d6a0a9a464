#!/usr/bin/env bash
# What a GRPO step takes on one GPU, by part: a 0.5B Qwen2 from scratch, prompts of 4k tokens (20 passages), answers of 1k,
# 16 windows x 8 answers, six steps. Nothing is downloaded. The sizes:
#
#   real-trl      TRL, no vLLM: bfloat16, the memory's peak beside what is expected. Any torch from 2.6 on that sees the GPU, and beside
#                 it transformers, trl, accelerate and datasets (as extra train bounds them) and this project's core
#   real          verl with vLLM rollouts (extra cluster; flash-attn beside it, if you have it)
#   small         TRL on a CPU, 4 windows x 4 short answers of a small model: rehearses real-trl
#   small-verl    verl and vLLM's CPU build (extra cluster-cpu): rehearses real
#
# PYTHON names the interpreter, OUT the folder (outputs/gpu_grpo). More overrides may follow the size:
#   gpu_grpo.sh real trainer.rollout_memory=0.7
# The figures so far were made with one update a step and KL .001; minibatches, kl and weight_decay keep that.
set -euo pipefail
cd "$(dirname "$0")/../.."
size=${1:-real}
shift || true
python=${PYTHON:-python3}
export PYTHONPATH="$PWD/src${PYTHONPATH:+:$PYTHONPATH}"   # on a bare machine the project need not be installed
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-PASSIVE}               # shared cores: idle threads sleep, not spin
out=${OUT:-outputs/gpu_grpo}
lengths=(model.max_tokens=1024 prompt.max_characters=1400 augmentation.size=20 prepare.depth=20)
short=(model.max_tokens=64 augmentation.size=5 prepare.depth=5 algorithm.prompts_per_step=4 algorithm.group_size=4)
case $size in
  real)
    shape=real
    settings=(trainer=verl cluster.gpus_per_node=1 trainer.max_prompt_tokens=5120 "${lengths[@]}") ;;
  real-trl)
    shape=real
    # The answers of a step are sampled at once by transformers, and trained on four at a time.
    settings=(trainer=trl trainer.device=cuda trainer.micro_batch=4 trainer.gradient_checkpointing=true "${lengths[@]}") ;;
  small)
    shape=small
    settings=(trainer=trl "${short[@]}") ;;
  small-verl)
    shape=small
    settings=(trainer=verl_cpu trainer.max_prompt_tokens=1024 trainer.tokens_per_pass=2048 "${short[@]}") ;;
  *) echo "gpu_grpo.sh: size must be real, real-trl, small or small-verl, not $size" >&2; exit 2 ;;
esac
# Before anything is made: what cannot be imported, and whether there is a GPU.
"$python" experiments/performance/gpu_grpo.py check --size "$size"
"$python" experiments/performance/gpu_grpo.py make "$out/$shape" --shape "$shape"
"$python" run.py task=train name="$size" paths.outputs="$out" tracking=none \
  model=local model.path="$out/$shape/model" model.name=scratch prompt=rearank dataset=local_rankllm \
  dataset.collection.path="$out/$shape/candidates.jsonl" dataset.collection.qrels_file="$out/$shape/qrels" \
  augmentation.sets=2 augmentation.filter.minimum=0 prepare.validation_windows=0 \
  algorithm.steps=6 algorithm.prompts_per_step=16 algorithm.group_size=8 \
  algorithm.minibatches=1 algorithm.kl=0.001 algorithm.weight_decay=0 "${settings[@]}" \
  trainer.validate_every=1000 trainer.guard.max_cut_off=null trainer.guard.min_readable=null trainer.guard.max_entropy=null "$@"
"$python" experiments/performance/gpu_grpo.py table "$out/$size" | tee "$out/$size.md"
