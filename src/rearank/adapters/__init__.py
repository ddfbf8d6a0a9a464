"""Our first stage and reranker inside other libraries' pipelines, each behind its extra.

``pyterrier`` transformers for PyTerrier.
"""
