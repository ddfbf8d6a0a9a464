"""Options for rearank: a reward, an algorithm, a strategy and a collection, one a file; the prompt is a yaml alone.

Each class is a frozen dataclass whose fields are the keys of a yaml in ``herbarium/conf``.
"""
