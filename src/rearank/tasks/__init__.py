"""Tasks: what ``python run.py task=...`` does. Orchestration only; the work is in the rooms below.

``experiment`` the typed config · ``prepare`` · ``train`` (and SFT) · ``evaluate`` · ``pipeline`` · ``preflight`` ·
``stage`` folders that continue · ``environment`` what a number was computed with · ``command`` from Hydra to a task.
"""
