"""Tasks: what ``python run.py task=...`` does. Orchestration only; the work is in the rooms below.

Each task has a file of its name: ``prepare`` · ``train`` (and SFT) · ``evaluate`` · ``pipeline`` · ``compare`` ·
``analyse`` · ``report`` · ``collect`` · ``dashboard`` · ``serve`` · ``preflight``. What they are made of:

- every task: ``command`` from Hydra to a task, ``experiment`` the typed config, ``settings`` its sections, ``stage``
  folders that continue, ``environment`` what a number was computed with, ``tracked`` what the trackers are told;
- ``evaluate``: ``benchmark`` what is measured on, ``systems`` what is measured, ``measuring`` one benchmark
  (``reranking`` one system over it, ``tally`` its answers counted), ``results`` what is kept, ``tables``, ``lists``
  of several benchmarks, ``beside`` published numbers, ``tracked_results``;
- ``train``: ``figures`` its curves; ``compare``: ``compared`` what it reads; ``report``: ``facts`` what a run was;
- ``analyse``: ``questions`` what is asked, ``asking`` it, ``findings`` what comes of it;
- sweeps: ``sweep`` jobs, failures and the end, ``sharing`` what jobs make alike, ``collect`` their table.
"""
