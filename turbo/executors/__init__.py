"""Executors: what a worker runs a task with. One file a kind; `base.py` holds the protocol."""
