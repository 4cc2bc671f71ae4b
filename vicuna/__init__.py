"""Chinese-Vicuna: what two or more of the programs, tools and scripts share.

Importing this package imports nothing heavy; `args`, `prompt` and `errors` never import torch.
"""

__version__ = "0.1.0"
