"""Models side by side: how likely a text is to them, what they answer, and what becomes of it in tables.

Idea: a text becomes windows of ids once, before any weight is read; a model is whatever gives logits or answers for
them. So bits, formats, libraries and adapters can be compared, and what was found is on the disk as it comes.
"""
