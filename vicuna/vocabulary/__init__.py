"""Vocabularies made larger: pieces trained on text, merged into a base's own, and rows of the base for them.

A piece keeps its id for life: what is new is only ever put behind what is there, so that the rows of the old pieces
stay what they were, bit by bit.
"""
