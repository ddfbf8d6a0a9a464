"""Tasks: what ``python run.py task=...`` does. Orchestration only; the work is in the rooms below.

- ``pipeline``: rows, training, evaluation, report, and the tasks that are parts of it; read this file first.
- Its steps: ``prepare`` rows · ``train`` and fine-tune (``training_figures`` its curves) · ``evaluate`` benchmarks ·
  ``analyse`` what a model writes · ``report`` one HTML page (``run_description`` what a run was).
- ``rerank`` lists without judgements, of more queries than memory holds.
- ``compare`` any runs and TREC files (``compare_inputs`` reads them) · ``dashboard`` a W&B workspace · ``serve`` an
  HTTP endpoint · ``preflight`` what this machine lacks, before every task · ``sweep`` many jobs by one command.
"""
