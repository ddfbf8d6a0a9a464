"""Text <-> tokens by a model's own tokenizer: ``coding`` the two ways, ``spare`` a copy for threads of others."""

from rearank.engines.tokens.coding import decoded, encoded
from rearank.engines.tokens.spare import SpareTokenizer

__all__ = ["SpareTokenizer", "decoded", "encoded"]
