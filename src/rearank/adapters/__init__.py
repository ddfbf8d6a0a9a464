"""Our first stage and reranker inside other libraries, each behind its extra; README.md lists them with a line each.

``pyterrier`` transformers for PyTerrier · ``mcp`` a server of tools for assistants.
"""
