"""``engine=openai``: models behind a server that speaks OpenAI's chat protocol.

``settings`` the fields, checked · ``node`` what conf/engine builds to · ``engine`` one call from prompt to answer ·
``server`` the connection · ``servers`` which of several is asked · ``replies`` what a server answers · ``retries`` what
is done where it doesn't · ``refusals`` what a refusal is about · ``overflow`` prompts that are too long · ``budget``
what calls cost · ``trial`` a look at the servers before any work.
"""

from rearank.moved import attributes_of

__getattr__ = attributes_of(__name__)  # old names of what has moved
