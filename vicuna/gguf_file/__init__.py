"""What a GGUF file says: its keys, the model and the tokenizer that these describe, and its weights, dequantised.

Idea: a file's head says all that decides whether it fits, so it is read and checked against the file's size without a
weight; and what a base has to have is made of the head as a folder in Hugging Face format, whose weights stay where
they are.
"""
