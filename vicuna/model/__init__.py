"""The base model and the adapter on top of it.

Idea: everything that config, tokenizer and the shapes in the weight files can tell is checked before a weight is read;
only then is the base loaded, at 4, 8, 16 or 32 bits, and the adapter read onto it.
"""
