"""How long tests wait for other processes. A limit is there to end what hangs and measures nothing,
so it is far beyond what a busy machine takes.
"""

HANGS = 300.0  # seconds
