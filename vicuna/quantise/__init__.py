"""A model quantised by GPTQ or AWQ: what is asked, on which text, by GPTQModel, as a folder that opens everywhere.

The layers are quantised one block after the other, so a model of any size takes the memory of one block.
"""
