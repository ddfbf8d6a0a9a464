"""Training data that comes as rows of a table: local files, or a dataset of the Hugging Face hub.

``tables`` reads the rows and counts what is left out, ``columns`` takes values out of them. Made of them are:

- ``graded``: a query with graded passages, of which augmentation draws windows.
- ``conversations``: prompts with an answer or an order, shown as they are.
- ``rearank_rows``: the authors' rows, prompts with hits that TREC judges.
"""
