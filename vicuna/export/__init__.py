"""What leaves the project: adapters merged into their base, Meta's layout and back, hashes of what was written.

Idea: sources are checked first, then every tensor is computed when its rows are asked for and written once, so memory
stays at two tensors however large the model.
"""
