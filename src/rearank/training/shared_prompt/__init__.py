"""One forward pass over each prompt and its answers: a group's prompt is computed once. Imports torch.

``packed`` a prompt and all its answers in one row, under a mask in which no answer sees another
"""
