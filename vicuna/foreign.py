"""Code that lies in a model's folder, or that its config names on the hub: it is never run, and nobody is asked.

Every call of a library that could run it is told so with `**NEVER_RUN`; tests/test_foreign_code.py walks the calls.
"""

# Left out, transformers asks on the terminal, and takes a line that is piped in for the answer.
NEVER_RUN = {"trust_remote_code": False}
