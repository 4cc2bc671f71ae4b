"""What page and API have in common as a server: its connections, its visitors and their turns, its end.

Idea: nothing here is known by a name that a client invents. A connection is its address's, a request its login's or its
address's, and where there is not enough for all, those give who have most.
"""
