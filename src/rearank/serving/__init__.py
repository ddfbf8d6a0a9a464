"""``task=serve``: reranking over HTTP, in the shape that Cohere's and Jina's clients expect.

``limits`` the config's section · ``request`` what came in -> checked values · ``response`` what goes out · ``encoding``
its JSON · ``gate`` how many at once, in how much memory · ``door`` who may come in · ``intake`` keys, bodies, times ·
``connections`` how many, and for how long · ``metrics`` counts and request ids · ``app`` the endpoints · ``server``
from a bound socket to an orderly end.
"""

from rearank.serving.limits import Serving, ServingError

__all__ = ["Serving", "ServingError"]
