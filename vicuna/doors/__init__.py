"""Who may come in: names that the server answers to, passwords and keys, logins, and how often somebody may guess.

Idea: page and API ask the same door, which is made once for a server; each answers refusals in its own form.
"""
