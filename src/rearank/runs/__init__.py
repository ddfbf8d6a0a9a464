"""A run's folder, and what its results depend on.

``layout`` the name of every file · ``identity`` the code behind a result · ``content`` data and models by what they
hold · ``declared`` which fields of the config matter · ``stage`` go on, or move aside · ``environment`` versions and
commit · ``reader`` the only one of output folders · ``seal`` what was damaged
since · ``sweeps`` a sweep's jobs · ``seeds`` the only pooling over seeds ·
``sharing`` what jobs make alike.
"""

from rearank.runs.content import CONTENT, files_of
from rearank.runs.declared import INCIDENTAL, SELECTS
from rearank.runs.identity import code_of

__all__ = ["CONTENT", "INCIDENTAL", "SELECTS", "code_of", "files_of"]
