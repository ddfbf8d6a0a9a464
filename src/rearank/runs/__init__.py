"""A run's folder, and what its results depend on.

``layout`` the name of every file · ``identity`` the code behind a result · ``content`` data and models by what they
hold · ``declared`` which fields of the config matter · ``stage`` go on, or move aside · ``environment`` versions and
commit · ``reader`` the only one of output folders · ``seal`` what was damaged
since · ``sweeps`` a sweep's jobs · ``seeds`` the only pooling over seeds ·
``sharing`` what jobs make alike.

Whether a stage goes on or is moved aside is decided in ``Stage.open``: it compares the stage's ``settings.json`` with
what the result depends on now. ``tasks.pipeline`` says on what, by stage:

=============  ===================================================  ============================================
folder         config (fields declared as incidental left out)      finished when there is
=============  ===================================================  ============================================
prepared       dataset, validation, prepare, seed; where windows    summary.json
               are drawn also retriever, augmentation, prompt
sft            the same, and model, reward, sft, trainer            result.json
training       the same, and model, reward, algorithm, trainer      result.json
distilled      what the rows do, and distill, model, engine         summary.json
evaluation/    model, prompt, strategy, engine, evaluation,         (made again from ``completions.sqlite``, which
*/*            retriever, seed, its benchmark                       has every answer)
analysis,      analyse and what evaluation depends on               analysis.json
*-short
rerank         rerank, model, prompt, strategy, engine; where it    summary.json, and ``rerank.output`` as it was left
               is used also the benchmark's collection, retriever
export         export; the training's and the results' files        ``rearank.json`` and every file that it lists
=============  ===================================================  ============================================

Besides: the code of the classes chosen for these keys where users change it (``experiment.DECIDED_BY``), the modules
that decide a result whatever is chosen (``tasks.pipeline``), and the content of the files and models that are named.
"""

from rearank.runs.content import CONTENT, files_of
from rearank.runs.declared import INCIDENTAL, SELECTS
from rearank.runs.identity import code_of

__all__ = ["CONTENT", "INCIDENTAL", "SELECTS", "code_of", "files_of"]
