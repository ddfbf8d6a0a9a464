"""Each prompt is computed once (``trainer.shared_prompt``): by the rows of ``rearank.training.shared_prompt.packed``.

``engine`` in the place of verl's own · ``groups`` which answers are on one GPU, and in one pass
"""
