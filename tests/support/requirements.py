"""Real parts that a test needs: there, or a failure under TURBO_REQUIRE_REAL=1, or a skip that says what is missing."""

import os
import shutil

import pytest


def missing(what: str) -> None:
    """A real part is not there."""
    if os.environ.get("TURBO_REQUIRE_REAL") == "1":
        pytest.fail(what)
    pytest.skip(what)


def require(tool: str) -> str:
    """A program's path."""
    found = shutil.which(tool)
    if found is None:
        missing(f"{tool} is not installed")
    return str(found)
