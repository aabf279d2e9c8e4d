"""Which role may do what a command does, for an error that says so."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import psycopg

KEYS = "keys of top"
"""What the keys of `turbo top` do."""

MAY = {
    "submit": ("submit tasks", "turbo_submitter"),
    "tasks": ("see tasks", "turbo_reader"),
    "show": ("see tasks", "turbo_reader"),
    "graph": ("see what a task hangs together with", "turbo_reader"),
    "diff": ("see workspaces", "turbo_reader"),
    "logs": ("see workers", "turbo_reader"),
    "questions": ("see questions", "turbo_reader"),
    "answer": ("answer", "turbo_approver"),
    "approve": ("answer", "turbo_approver"),
    "deny": ("answer", "turbo_approver"),
    "reply": ("go on with tasks", "turbo_admin"),
    "tell": ("write to tasks", "turbo_admin"),
    "cancel": ("cancel tasks", "turbo_admin"),
    "retry": ("retry tasks", "turbo_admin"),
    "pause": ("pause anything", "turbo_admin"),
    "resume": ("resume anything", "turbo_admin"),
    "status": ("see the fleet", "turbo_reader"),
    "top": ("see the fleet", "turbo_reader"),
    "costs": ("see costs", "turbo_reader"),
    KEYS: ("change anything", "turbo_admin"),
}
"""By command: what it does, and the role with the fewest privileges that may."""


def why_denied(error: "psycopg.errors.InsufficientPrivilege", command: str) -> str:
    """A refusal by PostgreSQL, with the role that may. What a trigger refuses with a hint stays as it is."""
    said = str(error.diag.message_primary or error)
    if error.diag.message_hint:
        return f"{said}. {error.diag.message_hint}"
    if command not in MAY:
        return said
    what, role = MAY[command]
    return f"this role may not {what}: {role} may (GRANT {role} TO ..., after turbo migrate --roles); {said}"
