"""What a person meets: the Gradio pages and the chat in the terminal, with their words in English and Chinese.

Idea: a conversation is the visitor's own state, one list of messages, and the server holds no copy of it; a page lays
out parts, and what its events call are functions of that list.
"""
