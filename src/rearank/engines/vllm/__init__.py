"""``engine=vllm``: models through vLLM in this process.

``engine`` one call from prompt to answer · ``arguments`` what vLLM is started with · ``capacity`` how a model divides
over GPUs, and how many windows fit · ``processes`` none outlives this program.
"""

from rearank.moved import attributes_of

__getattr__ = attributes_of(__name__)  # old names of what has moved
