"""Is what was exported what was trained? Measures an export beside base + adapters and judges it.

Idea: every artefact is opened by the library that people use it with, given the same ids, and held against bounds that
come from clean exports; the base alone is the control that it must be nearer than.
"""
