"""Prompt types and tokenizers: a dialogue becomes text, and text becomes ids.

Idea: training, pages, API and exports call the same few functions here, so a model is asked in the very words and ids
that it was trained on. With `vicuna.data` this is the small core that every program shares: it imports nothing of
ours but the ground, and opens without torch.
"""
