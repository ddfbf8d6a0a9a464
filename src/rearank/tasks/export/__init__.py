"""``export``: what a run trained, as a folder in Hugging Face form with a model card, and a repository of the hub.

``origin`` which training, and what is known of it · ``card`` and ``words`` the model card · ``usage`` how to ask it ·
``folder`` weights and settings, whole or not at all · ``push`` the hub · ``task`` all of it.
"""

from rearank.tasks.export.origin import ExportError
from rearank.tasks.export.task import ExportTask, export_run

__all__ = ["ExportError", "ExportTask", "export_run"]
