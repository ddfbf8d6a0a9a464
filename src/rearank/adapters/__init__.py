"""Our first stage and reranker inside other libraries, each behind its extra; README.md lists them with a line each.

``pyterrier`` transformers · ``mcp`` a server of tools for assistants · ``langchain`` a document compressor ·
``llamaindex`` a node postprocessor · ``rerankers`` AnswerDotAI's interface · ``sentence_transformers`` what their
evaluator asks of a model · ``haystack`` a component · ``verifiers`` training windows and the reward as an environment.
"""
