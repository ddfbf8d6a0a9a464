"""The command ``rearank``; in a checkout ``python run.py`` is the same.

``start`` the entry point · ``doctor`` what runs here · ``prompt`` what a model would be sent.

Exit status: 0 done · 1 it failed, and a line on standard error says why and what to do (a bug keeps its traceback) ·
2 an option that isn't there · 130 stopped by Ctrl-C · 141 the program that read the output has ended (``| head``).
"""
