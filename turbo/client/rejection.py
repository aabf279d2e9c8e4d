"""Why the database rejected a row of `turbo submit`, in words."""

import re
from typing import Any


def why_rejected(error: Any) -> str:
    """Why the database rejected a row, and what to write instead."""
    diag = error.diag
    if error.sqlstate == "23505" and diag.message_detail:
        taken = re.fullmatch(r"Key \(task_id\)=\((.*)\) already exists\.", diag.message_detail, re.DOTALL)
        return f"task {taken[1]} already exists" if taken else str(diag.message_detail).rstrip(".")
    hint = f". {diag.message_hint}" if diag.message_hint else ""
    return f"{diag.message_primary or error}{hint}"
