"""What programs meet: OpenAI's routes under /v1, and the command line of vLLM for many users.

Idea: a request is read into one checked value before a model is asked, and whatever can not be done is refused, never
ignored.
"""
