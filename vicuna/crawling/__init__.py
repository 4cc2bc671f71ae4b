"""Records asked of a language model: the request, what its reply holds, and the file that they are collected in.

Idea: nothing that was paid for is lost, and nothing is learnt that was not meant: a record is on the disk before the
next is looked at, and one that has no end, or is like an earlier one, is put aside with its reason.
"""
