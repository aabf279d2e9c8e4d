"""Which log of a task is shown, where its checks have logs of their own."""

import os
from pathlib import Path

import pytest

from turbo.cli.run_log import log_file
from turbo.client.models import RunView


@pytest.mark.parametrize(
    ("status", "token", "shown"),
    [
        ("completed", 7, "1-7.log"),
        ("running", 7, "1-7.log"),
        ("running", 9, "1-9.check2.log"),
        ("completed", 9, "1-9.check2.log"),
        ("running", 11, None),
        ("completed", 11, "1-7.log"),
    ],
)
def test_log_of_a_check_takes_no_place(tmp_path: Path, status: str, token: int, shown: str | None) -> None:
    """The agent ran in claim 7; claim 9 went straight to the check; nothing is here of claim 11."""
    for moment, name in enumerate(("1-7.log", "1-7.check1.log", "1-9.check1.log", "1-9.check2.log")):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (moment, moment))
    found = log_file(RunView("t", status, token, "w", "h", None, None, None, 0, 0), tmp_path)
    assert (found.name if found else None) == shown
