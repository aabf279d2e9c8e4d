"""Executors: how a worker runs a task. One file per kind; `protocol.py` defines what they have in common."""
