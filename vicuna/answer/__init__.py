"""Answers in the making: one iterator of growing answers for every decoding mode, on transformers and on llama.cpp.

Idea: the libraries generate, and public hooks look on. One worker runs every call of a model, so any number of pages,
terminals and API clients share it, and what their prompts have in common is computed once.
"""
