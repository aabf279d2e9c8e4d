"""Can turbo use the existing tables? Findings, with the statements to run (levels: finding.py)."""

from collections.abc import Iterator, Sequence

from turbo.domain.finding import Finding, note, refuse, warn
from turbo.domain.states import TaskState
from turbo.migrate.adoption import contract
from turbo.migrate.adoption.finding import quoted, sorted_by_level
from turbo.migrate.adoption.judge_columns import judge_columns, judge_ids, judge_reserved, judge_states
from turbo.migrate.adoption.sequences import judge_sequences
from turbo.migrate.adoption.survey import AdoptedTable, Rows, Survey

RECORD_META = (
    "CREATE TABLE public.turbo_meta (key text PRIMARY KEY, value jsonb NOT NULL); "
    "INSERT INTO public.turbo_meta VALUES ('adopted', '?');"
)


def judge(survey: Survey, twice: Sequence[str] = ()) -> list[Finding]:
    """All findings, refusals first. `twice`: columns of agent_tasks whose values turbo's unique index would refuse."""
    if restored := _restored_in_part(survey):
        return [restored]
    findings = [*_session(survey)]
    for table, known in ((survey.tasks, contract.TASKS), (survey.actions, contract.ACTIONS)):
        if table is not None:
            if kind := _wrong_kind(table):
                findings.append(kind)
                continue
            findings += judge_columns(table, known, survey.begun)
            findings += _neighbours(table, quiet=survey.quiet)
            findings += judge_sequences(table.name, table.sequences)
    if survey.tasks is not None:
        findings += judge_reserved(survey.tasks)
        findings += judge_ids(survey.tasks, survey.actions)
        findings += judge_states(survey)
    for column in twice:
        findings.append(
            refuse(
                f"agent_tasks.{column} is also a turbo column, which must be unique, but it has duplicate values",
                f"ALTER TABLE public.agent_tasks RENAME COLUMN {column} TO old_{column};",
            )
        )
    return sorted_by_level(findings)


def judge_rows(rows: Rows) -> list[Finding]:
    """Findings about the rows; only for --plan."""
    if rows.statuses is None:
        return [note("agent_tasks is too large to count its statuses within ten seconds")]
    findings = [note("rows by status: " + (", ".join(f"{s} {n}" for s, n in rows.statuses) or "none"))]
    known = set(TaskState)
    strange = [f"{s if s is not None else 'null'} ({n})" for s, n in rows.statuses if s not in known]
    if strange:
        findings.append(note(f"statuses unknown to turbo: {', '.join(strange)}. turbo ignores those rows"))
    counted = dict(rows.statuses)
    if counted.get("scheduled"):
        findings.append(
            warn(
                f"{counted['scheduled']} rows are 'scheduled' already. turbo makes such rows pending at run_after, which they do "
                "not have. They get one a hundred years from now, so that your program keeps making them pending. "
                "Rows inserted as 'scheduled' from now on need a run_after, or they become pending at once",
                "UPDATE public.agent_tasks SET run_after = <your column> WHERE status = 'scheduled';",
            )
        )
    for state in (TaskState.WAITING, TaskState.BLOCKED):
        if counted.get(state):
            findings.append(
                warn(
                    f"{counted[state]} rows are '{state}' already. In turbo such a row waits for a person or for other tasks, and no "
                    "worker runs it. Rows inserted as 'waiting' from now on are held until somebody answers yes, or sets them to "
                    "'pending'",
                )
            )
    if counted.get("running"):
        findings.append(
            note(
                f"{counted['running']} rows are running, but not by turbo (fencing_token is null), so turbo never rescues them",
            )
        )
    for column, number in rows.put_off:
        findings.append(
            warn(
                f"{number} waiting rows have a {column} in the future. turbo does not use that column: its workers would run "
                "the pending ones at once. After the migration, before the first worker starts",
                f"UPDATE public.agent_tasks SET run_after = {quoted(column)}"  # noqa: S608 - shown, not sent
                f" WHERE status = 'pending' AND {quoted(column)} > now();",
            )
        )
    return findings


def _restored_in_part(survey: Survey) -> Finding | None:
    """agent_tasks has every column that only turbo uses, each of its type: turbo made it. Its names clash with nothing."""
    if survey.begun or survey.tasks is None:
        return None
    for want in contract.TASKS:
        if want.name in contract.TURBOS_OWN:
            have = survey.tasks.column(want.name)
            if have is None or have.kind not in want.kinds:
                return None
    known = {*(want.name for want in contract.TASKS), *contract.ADDED}
    adopted = "true" if any(column.name not in known for column in survey.tasks.columns) else "false"
    return refuse(
        "agent_tasks is turbo's own table, but turbo_meta is missing: only some of turbo's tables were restored. Restore "
        "turbo_meta and turbo_migrations from the same backup; or create turbo_meta ('adopted' is true if the table was there "
        "before turbo), and run turbo migrate again: it creates what is missing",
        RECORD_META.replace("?", adopted),
    )


def _session(survey: Survey) -> Iterator[Finding]:
    for name, kind in survey.clashes:
        yield refuse(
            f"public.{name} exists but is not turbo's ({kind.lower()})",
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
            "agent_tasks is partitioned: PostgreSQL has no unique index over partitions, so turbo cannot ensure one running task "
            "per concurrency_key or one task per idempotency_key. Rename it, let turbo create a new agent_tasks, "
            "and copy the waiting rows",
            "ALTER TABLE public.agent_tasks RENAME TO old_agent_tasks;",
        )
    if table.kind not in ("r", "p"):
        what = {"v": "a view", "m": "a materialized view", "f": "a foreign table"}.get(table.kind, "not a table")
        return refuse(f"{table.name} is {what}: turbo needs the table itself under this name, in schema public")
    if table.inherits or table.is_partition:
        return refuse(f"{table.name} uses inheritance: turbo's indexes and triggers would not cover all rows")
    return None


def _neighbours(table: AdoptedTable, *, quiet: bool) -> Iterator[Finding]:
    written = contract.WRITTEN[table.name]
    for dependent in table.of("unique"):
        if dependent.other != "primary" and dependent.columns and set(dependent.columns) <= written:
            over = ", ".join(dependent.columns)
            yield refuse(
                f"the unique index {dependent.name} over {over}: turbo's rows have duplicates in these columns",
                f"DROP INDEX CONCURRENTLY {dependent.name};",
            )
    for dependent in table.of("rule"):
        if dependent.other != "SELECT":
            yield refuse(
                f"the rule {dependent.name} ON {dependent.other} of {table.name}: PostgreSQL allows no rule on a table that "
                "is written in WITH, as turbo does. Replace it with a trigger",
                f"DROP RULE {quoted(dependent.name)} ON public.{table.name};",
            )
    for dependent in table.of("trigger"):
        yield note(
            f"trigger {dependent.name} on {table.name} calls {dependent.other}; it also fires for turbo's statements"
        )
        if dependent.updates and table.name == "agent_tasks" and not quiet:
            yield warn(
                f"the trigger {dependent.name} would fire when waiting rows get their run_after, and this role cannot disable it. "
                "So these rows stay as they are and run by priority, but not by age. To order them by age, run turbo "
                "migrate as a superuser, or, with PostgreSQL 15 or later, grant the privilege first",
                "GRANT SET ON PARAMETER session_replication_role TO <this role>;",
            )
    for dependent in table.of("view"):
        over = ", ".join(dependent.columns or []) or "the table"
        yield note(f"view {dependent.name} over {over}: none of its columns changes its type")
    for dependent in table.of("key_out"):
        yield note(
            f"foreign key {dependent.name}: {table.name} ({', '.join(dependent.columns or [])}) refers to {dependent.other}"
        )
    for dependent in table.of("key_in"):
        yield note(
            f"foreign key {dependent.name}: {dependent.other} refers to {table.name}; retention keeps the rows it refers to"
        )
    for dependent in table.of("publication"):
        yield note(f"{table.name} is published by {dependent.name}: the subscriber needs the new columns first")
    if table.kind == "p":
        yield note(
            f"{table.name} has {len(table.of('partition'))} partitions: retention skips it; drop old partitions instead",
        )
    if table.row_security:
        yield warn(
            f"row level security is on for {table.name}: workers see and change only the rows that its policies allow"
        )
