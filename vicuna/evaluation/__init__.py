"""How likely a model holds a text: the same tokens are counted whatever opens the model, transformers or llama.cpp.

Idea: a text becomes windows of ids once, before any weight is read; a model is whatever gives logits for them. So bits,
formats, libraries and adapters can be set side by side.
"""
