"""Files from elsewhere: what they are, what they may hold, and that their code is never run.

A file that a stranger wrote is opened, bounded and typed here, and refused in a sentence; libraries see only what
passed.
"""
