"""`turbo migrate`: bring the database to this turbo's schema, or show the plan for it."""

import sys
from dataclasses import asdict
from typing import Annotated

import typer

from turbo import migrate as migrations
from turbo.cli import output
from turbo.cli.options import LONGEST_SECONDS, Dsn, finite
from turbo.domain.states import Level
from turbo.migrate.adoption.finding import worded

_DEFAULT = migrations.Patience()


def migrate(
    plan: Annotated[
        bool, typer.Option("--plan", help="Print the existing tables and every statement; change nothing.")
    ] = False,
    check: Annotated[bool, typer.Option("--check", help="Exit 1 if the database is behind; change nothing.")] = False,
    roles: Annotated[
        bool,
        typer.Option(
            "--roles", help="Also create turbo's five roles and grant their privileges; with --plan, print the SQL."
        ),
    ] = False,
    lock_timeout: Annotated[
        float, typer.Option(min=0.01, max=60, callback=finite, help="Seconds that one attempt waits for a table lock.")
    ] = _DEFAULT.lock_timeout,
    attempts: Annotated[
        int, typer.Option(min=1, max=1_000_000, help="Attempts to get a lock before giving up.")
    ] = _DEFAULT.attempts,
    wait: Annotated[
        float,
        typer.Option(
            min=0, max=LONGEST_SECONDS, callback=finite, help="Seconds to wait for another turbo migrate to finish."
        ),
    ] = _DEFAULT.wait,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    dsn: Dsn = None,
) -> None:
    """Create turbo's tables, or bring them up to date.

    Safe to repeat, and to run on several hosts at once. An existing agent_tasks is adopted: columns are added; none is
    dropped, renamed or retyped.

    \b
    Examples:
      turbo migrate --plan | less
      turbo migrate --check || turbo migrate
      turbo migrate --roles
    """
    if plan and check:
        raise typer.BadParameter("give --plan or --check, not both")
    if roles and check:
        raise typer.BadParameter("--check covers the schema only: use --roles alone or with --plan")
    try:
        if plan:
            planned = migrations.plan(dsn or "")
            _show_plan(planned, as_json, roles)
            if planned.refused:
                raise typer.Exit(1)
        elif check:
            raise typer.Exit(_show_check(migrations.plan(dsn or ""), as_json))
        else:
            _apply(dsn or "", migrations.Patience(lock_timeout, attempts, wait), as_json, roles)
    except migrations.MigrationError as error:
        output.echo_lines(f"turbo migrate: {output.indented(str(error), 4)}", err=True)
        raise typer.Exit(2 if isinstance(error, migrations.BadDsn) else 1) from None


def _apply(dsn: str, patience: migrations.Patience, as_json: bool, roles: bool) -> None:
    def on_applied(migration: migrations.Applied) -> None:
        if not as_json:
            output.echo(f"{migration.label}  {migration.seconds * 1000:.0f} ms")
            sys.stdout.flush()

    def report_progress(line: str) -> None:
        output.echo(line, err=True)

    report = migrations.migrate(dsn, patience=patience, report=report_progress, on_applied=on_applied)
    granted = migrations.grant_roles(dsn, lock_timeout=patience.lock_timeout) if roles else None
    if as_json:
        output.print_json(asdict(report) | ({"roles": asdict(granted)} if granted else {}))
    elif report.applied:
        output.echo(f"{report.database} is at version {report.version}, the latest")
    else:
        output.echo(f"nothing to do: {migrations.explain_schema(report.version, report.latest)}")
    if granted and not as_json:
        made = f" ({', '.join(granted.created)} created)" if granted.created else ""
        output.echo(f"roles {', '.join(migrations.ROLES)} have their privileges{made}")
        for note in granted.notes:
            output.notice(f"note: {note}")


def _show_check(state: migrations.Plan, as_json: bool) -> int:
    behind = state.version < state.latest
    refusals = [finding for finding in state.findings if finding.level is Level.REFUSE]
    if as_json:
        known = {"database": state.database, "version": state.version, "latest": state.latest, "behind": behind}
        output.print_json(known | {"refused": [{"what": finding.what, "do": finding.do} for finding in refusals]})
    elif refusals:
        output.echo(f"{state.database}: turbo migrate is refused:")
        for finding in refusals:
            output.echo_lines(f"  - {output.indented(worded(finding), 4)}")
    else:
        output.echo(migrations.explain_schema(state.version, state.latest))
    return 1 if behind or refusals else 0


def _show_plan(planned: migrations.Plan, as_json: bool, roles: bool) -> None:
    if as_json:
        output.print_json(_plan_document(planned) | ({"roles": migrations.roles_sql()} if roles else {}))
        return
    if not planned.pending:
        nothing = f"nothing to do: {migrations.explain_schema(planned.version, planned.latest)}"
        output.echo(f"-- {nothing}" if roles else nothing)
    else:
        output.echo(
            f"-- {_flat(planned.database)}: from version {planned.version} to {planned.latest}. Nothing has been changed."
        )
        if planned.tables or planned.findings:
            _show_existing(planned)
        _show_statements(planned)
    if roles:
        output.echo_lines(f"\n-- ══ roles ══\n{migrations.roles_sql().rstrip()}")


def _show_existing(planned: migrations.Plan) -> None:
    for table in planned.tables:
        counted = planned.rows.statuses if planned.rows is not None and table.name == "agent_tasks" else None
        if counted is not None:
            rows = f"{sum(number for _, number in counted)} rows"
        else:
            rows = "rows never counted" if table.rows < 0 else f"about {table.rows} rows"
        output.echo_lines(f"--\n-- {table.name}: {rows}, {table.size / 2**20:.1f} MB, owner {_flat(table.owner)}")
        for column in table.columns:
            default = table.defaults.get(column.name) or ("identity" if column.identity else None)
            parts = [column.type, "not null" if column.required else "", f"default {default}" if default else ""]
            output.echo(_comment(f"  {column.name:24}{' '.join(part for part in parts if part)}"))
        for check in table.checks:
            output.echo(_comment(f"  check {check.name}: {check.expression}"))
    output.echo("--")
    for finding in planned.findings:
        output.echo_lines(
            _comment(f"{finding.level}: {finding.what}") + (f"\n--   {_flat(finding.do)}" if finding.do else "")
        )
    for blocker in planned.in_the_way:
        output.echo(_comment(f"in the way now: {blocker}"))


def _show_statements(planned: migrations.Plan) -> None:
    if planned.refused:
        output.echo_lines("--\n-- Refused. These statements will run once the reasons above are resolved.")
    label = ""
    for planned_statement in planned.statements:
        if planned_statement.label != label:
            output.echo_lines(f"\n-- ══ {planned_statement.label} ══")
            label = planned_statement.label
        how = "in a transaction" if planned_statement.in_transaction else "outside a transaction"
        note = f" ({planned_statement.note})" if planned_statement.note else ""
        output.echo_lines(f"\n-- {how}; {planned_statement.lock}{note}\n{planned_statement.sql.rstrip()}")


def _comment(text: str) -> str:
    return f"-- {_flat(text)}" if not text.startswith(" ") else f"--   {_flat(text)}"


def _flat(text: str) -> str:
    """One line: what follows a line end would be SQL, and no comment."""
    return output.visible(" ".join(text.split()) if "\n" in text else text.strip())


def _plan_document(planned: migrations.Plan) -> dict[str, object]:
    files = [
        {
            "version": file.version,
            "label": file.label,
            "in_transaction": file.in_transaction,
            "blocks": [block.sql for block in file.blocks],
        }
        for file in planned.pending
    ]
    return {
        "database": planned.database,
        "version": planned.version,
        "latest": planned.latest,
        "pending": files,
        "refused": planned.refused,
        "tables": [asdict(table) for table in planned.tables],
        "statuses": None if planned.rows is None or planned.rows.statuses is None else [
            {"status": status, "rows": rows} for status, rows in planned.rows.statuses
        ],
        "findings": [{"level": f.level, "text": f.what, "do": f.do} for f in planned.findings],
        "in_the_way": list(planned.in_the_way),
        "statements": [asdict(planned_statement) for planned_statement in planned.statements],
    }  # fmt: skip
