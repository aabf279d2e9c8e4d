"""Can turbo live with the tables that are there? What stands against it, what to know, and what to run.

refuse   `turbo migrate` stops before it changes anything, and says this
warn     it goes on; somebody should know before the first worker starts
note     what else was found, for --plan
"""

from collections.abc import Iterator, Sequence

from turbo.domain.finding import Finding, note, refuse, warn
from turbo.domain.states import TaskState
from turbo.migrate.adoption import contract
from turbo.migrate.adoption.finding import quoted, sorted_by_level
from turbo.migrate.adoption.judge_columns import judge_columns, judge_ids, judge_states
from turbo.migrate.adoption.survey import AdoptedTable, Rows, Survey


def judge(survey: Survey, twice: Sequence[str] = ()) -> list[Finding]:
    """All findings, refusals first. `twice`: columns of agent_tasks whose values turbo's unique index would refuse."""
    findings = [*_session(survey)]
    for table, known in ((survey.tasks, contract.TASKS), (survey.actions, contract.ACTIONS)):
        if table is not None:
            if kind := _wrong_kind(table):
                findings.append(kind)
                continue
            findings += judge_columns(table, known, survey.begun)
            findings += _neighbours(table, quiet=survey.quiet)
    if survey.tasks is not None:
        findings += judge_ids(survey.tasks, survey.actions)
        findings += judge_states(survey)
    for column in twice:
        findings.append(
            refuse(
                f"agent_tasks.{column} is a column of turbo's too, and holds values more than once: turbo keeps it unique",
                f"ALTER TABLE public.agent_tasks RENAME COLUMN {column} TO old_{column};",
            )
        )
    return sorted_by_level(findings)


def judge_rows(rows: Rows) -> list[Finding]:
    """What the rows themselves say; only --plan looks."""
    if rows.statuses is None:
        return [note("agent_tasks is too large to count its statuses within ten seconds")]
    findings = [note("rows by status: " + (", ".join(f"{s} {n}" for s, n in rows.statuses) or "none"))]
    known = set(TaskState)
    strange = [f"{s if s is not None else 'null'} ({n})" for s, n in rows.statuses if s not in known]
    if strange:
        findings.append(note(f"statuses that turbo does not know: {', '.join(strange)}. It leaves those rows alone"))
    counted = dict(rows.statuses)
    if counted.get("scheduled"):
        findings.append(
            warn(
                f"{counted['scheduled']} rows say 'scheduled' already. turbo would make them pending at run_after, which they "
                "do not have: they get one a hundred years from now, and whatever made them pending so far goes on doing "
                "it. Rows inserted as 'scheduled' from now on need a run_after, or are pending at once",
                "UPDATE public.agent_tasks SET run_after = <your column> WHERE status = 'scheduled';",
            )
        )
    if counted.get("running"):
        findings.append(
            note(
                f"{counted['running']} rows are running: not by turbo (fencing_token is null), so never rescued by it",
            )
        )
    for column, number in rows.put_off:
        findings.append(
            warn(
                f"{number} waiting rows have a {column} in the future. turbo does not know that column: its worker would run "
                "those that are pending at once. After the migration, before the first worker starts",
                f"UPDATE public.agent_tasks SET run_after = {quoted(column)}"  # noqa: S608 - shown, not sent
                f" WHERE status = 'pending' AND {quoted(column)} > now();",
            )
        )
    return findings


def _session(survey: Survey) -> Iterator[Finding]:
    for name, kind in survey.clashes:
        yield refuse(
            f"public.{name} exists and is not turbo's ({kind.lower()})",
            f"ALTER {kind} public.{name} RENAME TO old_{name};",
        )
    if not survey.may_create:
        yield refuse(
            f"permission denied for schema public. Run turbo migrate as a role that may CREATE in schema public and that owns "
            f"agent_tasks and agent_actions where they exist (this one is {survey.user})",
        )
    for table in (survey.tasks, survey.actions):
        if table is not None and not table.may:
            yield refuse(
                f"must be owner of table {table.name}. Run turbo migrate as a role that owns agent_tasks and agent_actions, "
                f"or is a member of their owner (this one is {survey.user}, the owner is {table.owner})",
            )


def _wrong_kind(table: AdoptedTable) -> Finding | None:
    if table.kind == "p" and table.name == "agent_tasks":
        return refuse(
            "agent_tasks is partitioned: PostgreSQL has no unique index over partitions, so neither one running task per "
            "concurrency_key nor one task per idempotency_key could be kept. Rename it, let turbo make a new agent_tasks, "
            "and copy what still waits",
            "ALTER TABLE public.agent_tasks RENAME TO old_agent_tasks;",
        )
    if table.kind not in ("r", "p"):
        what = {"v": "a view", "m": "a materialized view", "f": "a foreign table"}.get(table.kind, "no table")
        return refuse(f"{table.name} is {what}: turbo needs the table itself under this name, in schema public")
    if table.inherits or table.is_partition:
        return refuse(f"{table.name} takes part in inheritance: turbo's indexes and triggers would not reach all rows")
    return None


def _neighbours(table: AdoptedTable, *, quiet: bool) -> Iterator[Finding]:
    written = contract.WRITTEN[table.name]
    for dependent in table.of("unique"):
        if dependent.other != "primary" and dependent.columns and set(dependent.columns) <= written:
            over = ", ".join(dependent.columns)
            yield refuse(
                f"the unique index {dependent.name} over {over}: turbo's rows share these values",
                f"DROP INDEX CONCURRENTLY {dependent.name};",
            )
    for dependent in table.of("rule"):
        if dependent.other != "SELECT":
            yield refuse(
                f"the rule {dependent.name} ON {dependent.other} of {table.name}: PostgreSQL allows none on a table that is written in "
                "WITH, as turbo does. Make it a trigger",
                f"DROP RULE {quoted(dependent.name)} ON public.{table.name};",
            )
    for dependent in table.of("trigger"):
        yield note(
            f"trigger {dependent.name} on {table.name} calls {dependent.other}; it fires for turbo's statements too"
        )
        if dependent.updates and table.name == "agent_tasks" and not quiet:
            yield warn(
                f"the trigger {dependent.name} would fire when waiting rows get their run_after, and this role may not keep it quiet: "
                "they stay as they are, so they are run by priority, but in no order of their age. To have it: run turbo "
                "migrate as a superuser, or (PostgreSQL 15 and later)",
                "GRANT SET ON PARAMETER session_replication_role TO <this role>;",
            )
    for dependent in table.of("view"):
        over = ", ".join(dependent.columns or []) or "the table"
        yield note(f"view {dependent.name} over {over}: no column of it is retyped")
    for dependent in table.of("key_out"):
        yield note(
            f"foreign key {dependent.name}: {table.name} ({', '.join(dependent.columns or [])}) refers to {dependent.other}"
        )
    for dependent in table.of("key_in"):
        yield note(
            f"foreign key {dependent.name}: {dependent.other} refers to {table.name}; retention keeps what it refers to"
        )
    for dependent in table.of("publication"):
        yield note(f"{table.name} is published by {dependent.name}: the subscriber needs the new columns first")
    if table.kind == "p":
        yield note(
            f"{table.name} has {len(table.of('partition'))} partitions: retention leaves it alone, drop old partitions instead",
        )
    if table.row_security:
        yield warn(f"row level security is on for {table.name}: workers see and change what its policies let them")
