"""One forward pass over each prompt and its answers: a group's prompt is computed once. Imports torch.

``batch`` answers with the prompt that they share · ``support`` why a model or a setting takes the plain path ·
``cached`` the prompts' keys and values, kept with their graph, and the answers on them in any number of parts ·
``packed`` a prompt and all its answers in one row, under a mask in which no answer sees another
"""
