"""The command ``rearank``; in a checkout ``python run.py`` is the same.

``start`` the entry point · ``running`` from a config to a task that runs · ``errors`` from an exception to words ·
``doctor`` what runs here · ``prompt`` what a model would be sent.

Exit status: 0 done · 1 it failed, and a line on standard error says why and what to do (a bug keeps its traceback) ·
2 an option that isn't there · 130 stopped by Ctrl-C · 141 the program that read the output has ended (``| head``).
"""

from rearank.moved import attributes_of

__getattr__ = attributes_of(__name__)  # it was a module
