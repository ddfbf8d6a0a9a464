"""rearank: train and evaluate reasoning rerankers with reinforcement learning (REARANK, EMNLP 2025).

Importing the package imports nothing heavy; rooms are imported where they are used.
"""

__version__ = "0.1.0"
