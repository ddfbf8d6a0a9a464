"""``rerank.runner=ray``: blocks of the input streamed by Ray Data to actors that each hold an engine.

``shards`` what is done, on disk, and the output made of it · ``blocks`` the input in pieces · ``asks`` the actor: a
block in, a shard written · ``machines`` Ray up and down, and how many actors fit · ``budget`` one purse for all of
them · ``driver`` the whole of it. Ray is imported only inside functions.
"""

from rearank.tasks.rerank.on_ray.blocks import BlockSource
from rearank.tasks.rerank.on_ray.driver import OnRay, Total
from rearank.tasks.rerank.on_ray.machines import problems
from rearank.tasks.rerank.on_ray.shards import ANSWERS, MANIFEST, SHARDS, Done, Shards

__all__ = ["ANSWERS", "MANIFEST", "SHARDS", "BlockSource", "Done", "OnRay", "Shards", "Total", "problems"]
