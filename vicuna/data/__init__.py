"""Data files of every accepted format become records, dialogues, and tokenised examples on disk.

Idea: no row is dropped or changed in silence, and what a row becomes depends on its content and the flags alone, so a
cache named by them can be shared and a run repeated. Together with `vicuna.prompt` the small core of all programs.
"""
