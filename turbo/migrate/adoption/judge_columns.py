"""Can turbo use the existing columns? Types, lengths, NOT NULL, the ids, and the values that `status` accepts."""

from collections.abc import Iterator, Sequence

from turbo.domain.finding import Finding, note, refuse, warn
from turbo.domain.states import TaskState
from turbo.migrate.adoption import contract
from turbo.migrate.adoption.contract import ExpectedColumn
from turbo.migrate.adoption.finding import quoted
from turbo.migrate.adoption.survey import AdoptedTable, Survey, TableColumn


def judge_columns(table: AdoptedTable, known: Sequence[ExpectedColumn], begun: bool) -> Iterator[Finding]:
    where = f"public.{table.name}"
    for want in known:
        have = table.column(want.name)
        if have is None:
            if want.add is None:
                yield refuse(f"{table.name} has no column {want.name}, and turbo cannot derive it")
            continue
        yield from _column(where, table.name, want, have)
        if table.name == "agent_tasks" and want.name in contract.TURBOS_OWN and not begun:
            yield _clash(where, table.name, want.name, "has another meaning in turbo")
    names = {want.name for want in known}
    for column in table.columns:
        if column.name in names or column.filled or (column.name == "action_id" and _fills_itself(table, column)):
            continue
        report, why = warn, "an INSERT without it fails, including turbo submit"
        if table.name == "agent_actions":
            report, why = refuse, "turbo does not know it and could not write its audit trail"
        yield report(
            f"{table.name}.{column.name} ({column.type}) is NOT NULL without a default: {why}",
            f"ALTER TABLE {where} ALTER COLUMN {quoted(column.name)} SET DEFAULT <value>;"
            f" or: ALTER TABLE {where} ALTER COLUMN {quoted(column.name)} DROP NOT NULL;",
        )


def _fills_itself(table: AdoptedTable, key: TableColumn) -> bool:
    """Whether adoption can give the key of agent_actions a default."""
    return (
        key.kind == "uuid"
        or contract.makes_text_id(key.kind, key.length)
        or (key.kind in contract.WHOLE and table.kind == "r")
    )


def _column(where: str, table: str, want: ExpectedColumn, have: TableColumn) -> Iterator[Finding]:
    expected = want.add.split(" not null")[0].split(" default")[0] if want.add else " or ".join(sorted(want.kinds))
    if have.kind not in want.kinds:
        new = want.name in (
            "queue",
            "run_after",
            "idempotency_key",
            "concurrency_key",
            "agent_session_id",
            "failure_kind",
        )
        if new or want.name in contract.TURBOS_OWN:
            yield _clash(where, table, want.name, f"is {have.type}, but turbo's is {expected}")
        else:
            yield refuse(
                f"{table}.{want.name} is {have.type}; turbo can use {', '.join(_spoken(k) for k in sorted(want.kinds))}. Changing the "
                "type rewrites the table under an exclusive lock: choose a quiet time",
                f"ALTER TABLE {where} ALTER COLUMN {want.name} TYPE {expected} USING {want.name}::{expected};",
            )
        return
    least = want.least if not want.unlimited else None
    if have.length is not None and (want.unlimited or (least is not None and have.length < least)):
        need = "without a limit" if want.unlimited else f"of at least {least} characters"
        yield refuse(
            f"{table}.{want.name} is {have.type}: turbo writes longer values, so it must be {need}. Widening a varchar "
            "rewrites nothing, but a view over the column must be dropped first and created again",
            f"ALTER TABLE {where} ALTER COLUMN {want.name} TYPE {'text' if want.unlimited else f'varchar({least})'};",
        )
    if have.generated:
        yield refuse(f"{table}.{want.name} is a generated column: turbo could not write it",
                      f"ALTER TABLE {where} ALTER COLUMN {want.name} DROP EXPRESSION;")  # fmt: skip
    if want.nullable and have.required:
        yield refuse(
            f"{table}.{want.name} is NOT NULL, but turbo writes null before a task has a value",
            f"ALTER TABLE {where} ALTER COLUMN {want.name} DROP NOT NULL;",
        )


def _spoken(kind: str) -> str:
    return {"int2": "smallint", "int4": "integer", "int8": "bigint", "bool": "boolean", "enum": "an enum"}.get(
        kind, kind
    )


def _clash(where: str, table: str, name: str, why: str) -> Finding:
    return refuse(
        f"{table}.{name} exists already and {why}: the names clash",
        f"ALTER TABLE {where} RENAME COLUMN {name} TO old_{name};",
    )


def judge_reserved(tasks: AdoptedTable) -> Iterator[Finding]:
    """Columns that a later migration adds, and that are there before it."""
    for column in tasks.columns:
        if column.name in contract.RESERVED and not column.comment.endswith(contract.TURBOS_MARK):
            yield _clash("public.agent_tasks", "agent_tasks", column.name, "has another meaning in turbo")


def judge_ids(tasks: AdoptedTable, actions: AdoptedTable | None) -> Iterator[Finding]:
    key = tasks.column("task_id")
    if key is None or tasks.kind != "r":
        return
    if not any(n.columns == ["task_id"] and n.other in ("primary", "") for n in tasks.of("unique")):
        yield refuse(
            "agent_tasks.task_id is not unique: turbo identifies tasks by it",
            "CREATE UNIQUE INDEX CONCURRENTLY agent_tasks_task_id_key ON public.agent_tasks (task_id);",
        )
    if not key.required:
        yield refuse(
            "agent_tasks.task_id may be null",
            "ALTER TABLE public.agent_tasks ALTER COLUMN task_id SET NOT NULL;",
        )
    if not key.has_default and key.kind in contract.WHOLE:
        yield warn(
            "agent_tasks.task_id has no default: it becomes an identity that starts above the highest id there is. A writer that "
            "numbers its rows itself (max + 1) can collide with a number from turbo: omit task_id there",
        )
    if not key.has_default and key.kind in contract.TEXT and not contract.makes_text_id(key.kind, key.length):
        yield warn(f"agent_tasks.task_id is {key.type}, too short for a generated id: every INSERT must provide one")
    trail = actions.column("task_id") if actions is not None else None
    if trail is None:
        return
    families = ({"text", "varchar"}, set(contract.WHOLE), {"uuid"})
    if not any(key.kind in family and trail.kind in family for family in families):
        problem = f"is {trail.type}, and agent_tasks.task_id is {key.type}"
    elif (trail.length is not None and (key.length or 2**31) > trail.length) or _narrower(trail.kind, key.kind):
        problem = f"is {trail.type}, too narrow for agent_tasks.task_id, {key.type}"
    else:
        return
    yield refuse(
        f"agent_actions.task_id {problem}: turbo could not write or find its audit trail. Give it the same type, or let turbo create "
        "a new agent_actions",
        "ALTER TABLE public.agent_actions RENAME TO old_agent_actions;",
    )


def _narrower(kind: str, than: str) -> bool:
    order = ["int2", "int4", "int8"]
    return kind in order and than in order and order.index(kind) < order.index(than)


def judge_states(survey: Survey) -> Iterator[Finding]:
    assert survey.tasks is not None
    status = survey.tasks.column("status")
    default = survey.tasks.defaults.get("status", "")
    if status is not None and status.has_default and default and not any(f"'{s}'" in default for s in TaskState):
        yield warn(
            f"agent_tasks.status has the default {default}: turbo runs rows that are 'pending' and ignores such rows",
            "ALTER TABLE public.agent_tasks ALTER COLUMN status SET DEFAULT 'pending';",
        )
    if status is not None and status.enum is not None:
        missing = [s for s in TaskState if s not in status.labels]
        if missing and not status.may_alter_type:
            yield refuse(f"the enum {status.enum} lacks {', '.join(missing)}, and {survey.user} does not own it",
                          " ".join(f"ALTER TYPE {status.enum} ADD VALUE '{s}';" for s in missing))  # fmt: skip
        elif missing:
            yield note(
                f"agent_tasks.status is the enum {status.enum}: {', '.join(missing)} are added to it permanently"
            )
    for name, states in survey.refused.items():
        yield from _refused(survey, name, states)
    for name in survey.unjudged:
        yield warn(f"cannot determine whether the CHECK {name} accepts turbo's rows: check it by hand")


def _refused(survey: Survey, name: str, states: tuple[str, ...]) -> Iterator[Finding]:
    if name.startswith("domain "):
        domain = name.removeprefix("domain ")
        yield refuse(
            f"agent_tasks.status is of the {name}, which refuses {', '.join(states)}. Other tables may use the domain, so its "
            "owner must change it",
            f"ALTER DOMAIN {domain} DROP CONSTRAINT <its check>; ALTER DOMAIN {domain} ADD CHECK (VALUE IN "
            f"(<the old values>, {', '.join(repr(s) for s in states)})) NOT VALID;",
        )
        return
    table, check = name.split(".", 1)
    drop = f"ALTER TABLE public.{table} DROP CONSTRAINT {quoted(check)};"
    if table == "agent_actions":
        yield refuse(f"the CHECK {name} refuses turbo's audit trail rows ({', '.join(states)})", drop)
    elif can_widen(survey, name):
        yield note(
            f"the CHECK {name} refuses turbo's {', '.join(states)}: it is replaced by one that accepts "
            "these and everything it accepted before",
        )
    else:
        yield refuse(f"the CHECK {name} refuses turbo's rows in the states {', '.join(states)}", drop)


def can_widen(survey: Survey, name: str) -> bool:
    """A CHECK on the status can be widened to accept turbo's states, unless it needs enum values that do not exist yet."""
    assert survey.tasks is not None
    status = survey.tasks.column("status")
    check = next((c for c in survey.tasks.checks if f"agent_tasks.{c.name}" == name), None)
    complete = status is not None and (status.enum is None or set(TaskState) <= set(status.labels))
    return check is not None and "status" in check.columns and complete
