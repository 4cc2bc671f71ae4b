"""Published data sets -> files of instructions or of dialogues, as `finetune.py` and `finetune_chat.py` read them.

Each set has a reader that knows what its files really hold; all give dialogues of messages, which one writer turns into
rows. What is left out is left out with its place and its reason.
"""
