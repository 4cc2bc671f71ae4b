"""Files on disk, whatever they hold: tensors read and written one at a time, folders moved into place, hashes, hubs.

Idea: what is read is mapped and never executed; what is written stands complete under its name, or not at all. Nothing
here knows a model's architecture.
"""
