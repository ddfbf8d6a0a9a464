"""What a run of ``trainer=verl`` will take of a GPU's memory, by part, before anything is started.

``parts`` the arithmetic · ``plan`` estimate, recommend, and what to change where it doesn't fit · ``table`` every node
of ``conf/model``: ``python -m rearank.training.memory``. Nothing heavy is imported.

Counted for verl 0.9.1 with FSDP2 and vLLM on the same GPUs, one asleep while the other works. Where verl says so (paths
inside its package; ``transformer_impl.py`` is ``workers/engine/fsdp/transformer_impl.py``):

- Weights are sharded float32, the frozen ones under LoRA too (``model_dtype: fp32`` in
  ``trainer/config/engine/fsdp.yaml``): 4 bytes a parameter over all GPUs, 4 for a trained one's gradient, 8 for Adam's
  moments, and 4 more during the step, because torch's foreach AdamW takes the square roots of all second moments at
  once. A bfloat16 base under LoRA takes half; the adapters over it stay float32 (the patch "float32 adapters").
- With ``fsdp_size`` below the number of GPUs the state is split over that many, and each such group has all of it.
- Gradients are summed over the GPUs after each pass: ``use_no_sync_for_gradient_accumulation`` is false in verl's files
  (not in its dataclass). Set to true they stay whole, float32, on every GPU until the update's last pass.
- A pass gathers a layer in bfloat16. Forward and backward keep each layer's input and one layer's working set
  (gradient checkpointing), or every layer's; a test holds that set to what torch saves for a real layer. A pass never
  exceeds its budget of tokens: ``rearrange_micro_batches`` makes more passes until none does.
- Logits, tokens x vocabulary, are the largest tensor. The update holds one bfloat16 copy: flash-attention's cross
  entropy writes the gradient over it (``inplace_backward``, since no entropy is asked for in the update). A temperature
  other than 1 adds a copy. Without flash-attn verl falls back to ``logprobs_from_logits_v2``
  (``utils/torch_functional.py``): 8 bytes an entry, measured on a CPU; and torch's attention over a packed batch has a
  mask of tokens x tokens.
- The pass before the update asks for the entropy: one copy of the logits, no gradient, and three float32 slices of
  2,048 tokens (``entropy_from_logits_with_chunking``, which we set). It takes as many tokens as the update.
- Fused kernels (``FusedLinearForPPO`` in ``utils/experimental/torch_functional.py``) make 512 tokens' logits at a time
  and make them again in the backward pass: 12 and 20 bytes an entry of such a slice, measured on a CPU. The output
  layer they read stays gathered (the patch "output layer with the root"). Liger (``use_liger``) leaves the logits as
  they are; what its kernels keep of a layer is taken from their design, not verified.
- A reference model takes nothing of the GPU: FSDP2 keeps a model that only runs forward on the host
  (``CPUOffloadPolicy`` where ``forward_only``). Under LoRA the policy without its adapters is the reference.
- A critic trains all its weights, also beside LoRA.
- Offloaded state is back for the whole update, and gone during generation (``EngineTrainModeCtx``).
- vLLM takes ``rollout_memory`` of the whole GPU, its bfloat16 weights included. Since 0.21 its CUDA graphs count, too
  (``determine_available_memory`` in ``v1/worker/gpu_worker.py``, read in 0.28; 0.24, which runs on GPUs, is taken to do
  the same). What is left is KV cache.
- Weights are loaded on the host, float32: by one process a group of GPUs, by every process where embeddings are tied
  (``_build_module`` in ``transformer_impl.py``).

A phase is a moment with everything that is on the GPU then; the largest is the peak. Activations and logits are upper
bounds; what the runtime and vLLM's graphs take and what the allocator can't use are allowances (``RUNTIME``,
``GRAPHS``, ``SPARE``).
"""

from rearank.training.memory.parts import GPU_GIB, Workload
from rearank.training.memory.plan import MemoryPlan, describe, estimate, recommend

__all__ = ["GPU_GIB", "MemoryPlan", "Workload", "describe", "estimate", "recommend"]
