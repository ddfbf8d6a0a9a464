"""Answers of a model of transformers, token by token.

``loop`` rows that are decoded together, each prompt computed once · ``draws`` the next token of each row, as the engine
draws it. Both import torch.
"""
