"""Sizes: small in `make test`, full in `make prove`, by the same code."""

import os
from typing import TypeVar

T = TypeVar("T", int, float)

FULL = bool(os.environ.get("TURBO_PROVE"))


def sized(small: T, full: T) -> T:
    """Mark the test `sized`, or `make prove` does not run it."""
    return full if FULL else small
