#!/usr/bin/env bash
# What a GRPO step takes on one GPU, by part: a 0.5B Qwen2 from scratch, prompts of 4k tokens (20 passages), answers of 1k,
# 16 windows x 8 answers, five steps of verl with vLLM rollouts. Nothing is downloaded.
#
#   experiments/performance/gpu_grpo.sh            one GPU, extra cluster (flash-attn beside it, if you have it)
#   experiments/performance/gpu_grpo.sh small      the same on a CPU, 4 windows x 4 short answers of a small model, with TRL
#   experiments/performance/gpu_grpo.sh small-verl ... and with verl and vLLM's CPU build (extra cluster-cpu)
#
# PYTHON names the interpreter, OUT the folder (outputs/gpu_grpo). More overrides may follow the size:
#   gpu_grpo.sh real trainer.rollout_memory=0.7
set -euo pipefail
cd "$(dirname "$0")/../.."
size=${1:-real}
shift || true
python=${PYTHON:-python3}
out=${OUT:-outputs/gpu_grpo}
case $size in
  real)
    shape=real
    settings=(trainer=verl cluster.gpus_per_node=1 trainer.max_prompt_tokens=5120 model.max_tokens=1024
      prompt.max_characters=1400 augmentation.size=20 prepare.depth=20) ;;
  small)
    shape=small
    settings=(trainer=trl model.max_tokens=64 augmentation.size=5 prepare.depth=5
      algorithm.prompts_per_step=4 algorithm.group_size=4) ;;
  small-verl)
    shape=small
    settings=(trainer=verl_cpu trainer.max_prompt_tokens=1024 trainer.tokens_per_pass=2048 model.max_tokens=64
      augmentation.size=5 prepare.depth=5 algorithm.prompts_per_step=4 algorithm.group_size=4) ;;
  *) echo "gpu_grpo.sh: size must be real, small or small-verl, not $size" >&2; exit 2 ;;
esac
"$python" experiments/performance/gpu_grpo.py make --size "$shape" "$out/$shape"
"$python" run.py task=train name="$size" paths.outputs="$out" tracking=none \
  model=local model.path="$out/$shape/model" model.name=scratch prompt=rearank dataset=local_rankllm \
  dataset.collection.path="$out/$shape/candidates.jsonl" dataset.collection.qrels_file="$out/$shape/qrels" \
  augmentation.sets=2 augmentation.filter.minimum=0 prepare.validation_windows=0 \
  algorithm.steps=6 algorithm.prompts_per_step=16 algorithm.group_size=8 "${settings[@]}" \
  trainer.validate_every=1000 trainer.guard.max_cut_off=null trainer.guard.min_readable=null trainer.guard.max_entropy=null "$@"
"$python" experiments/performance/gpu_grpo.py table "$out/$size" | tee "$out/$size.md"
