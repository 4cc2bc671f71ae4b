"""GGUF, the file format of llama.cpp: written from a Hugging Face LLaMA, quantised, described to Ollama.

Idea: a file's head says all that decides whether it fits, so it is read and checked against the file's size without a
weight; llama.cpp itself is only loaded to quantise.
"""
