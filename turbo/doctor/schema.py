"""turbo's schema: migrated, complete, and without foreign triggers on its tables."""

import re
from functools import cache

from turbo.doctor.check import Check
from turbo.doctor.session import Session
from turbo.domain.finding import Finding, fail, ok, skip, warn
from turbo.migrate import MigrationError, SchemaFit, check_schema, explain_schema, history, ownership
from turbo.migrate import files as migrations
from turbo.migrate.adoption.sequences import remedy, sequences, what

SCARCE = 0.01
"""The share of a sequence's numbers below which it is too late for plans."""

_TRIGGER = re.compile(
    r"create\s+or\s+replace\s+trigger\s+(\w+)\s+(?:before|after)\b.*?\bon\s+public\.(\w+)", re.IGNORECASE | re.DOTALL
)

_DROPPED_TRIGGER = re.compile(r"^drop trigger if exists (\w+) on public\.\w+;", re.MULTILINE)
_DROPPED_INDEX = re.compile(r"^drop index concurrently if exists public\.(\w+);", re.MULTILINE)


def checks(session: Session, *, as_worker: bool) -> list[Check]:
    schema_checks = [
        Check("table", lambda: _table(session), ("database",)),
        Check("schema", lambda: _schema(session), ("database",)),
        Check("owners", lambda: _owners(session), ("schema",)),
        Check("triggers", lambda: _triggers(session), ("schema",)),
        Check("other triggers", lambda: _other_triggers(session), ("table",)),
        Check("indexes", lambda: _indexes(session), ("schema",)),
        Check("sequences", lambda: _sequences(session), ("schema",)),
    ]
    if as_worker:
        schema_checks.append(Check("privileges", lambda: _privileges(session), ("schema",)))
    return schema_checks


def _schema(session: Session) -> Finding:
    with session.deadline():
        state = history.status(session.connection)
        explanation = explain_schema(state.version, state.latest, state.compatible_from)
        match check_schema(state.version, state.latest, state.compatible_from):
            case SchemaFit.BEHIND if state.version == 0 and (refused := ownership.judge(session.connection)):
                more = f"; {len(refused) - 1} more" if len(refused) > 1 else ""
                return fail(f"turbo migrate is refused: {refused[0].what}{more}", "turbo migrate --check has all of it")
            case SchemaFit.BEHIND:
                return fail(explanation.partition(": run `")[0], "turbo migrate")
            case SchemaFit.TOO_NEW:
                return fail(explanation.partition(": upgrade")[0], "upgrade turbo on this host")
        try:
            history.pending(session.connection, migrations.read())
        except MigrationError as error:
            return fail(str(error), "see migrations/ and the table turbo_migrations")
    if state.version > state.latest:
        return warn(explanation.partition(": upgrade")[0], "this works; upgrade turbo on this host when you can")
    return ok(f"at version {state.version}, the latest")


def _owners(session: Session) -> Finding:
    """Whose code runs in turbo's sessions?"""
    with session.deadline():
        keeper = ownership.keeper(session.connection)
        believed = [*ownership.trusted(session.connection), keeper]
        strangers = ownership.strangers(session.connection, believed)
        lost = ownership.lost_names(session.connection, believed)
        open_schema = ownership.open_schema(session.connection)
    if strangers:
        more = f"; {len(strangers) - 1} more" if len(strangers) > 1 else ""
        return fail(
            f"{strangers[0]}{more}",
            f"drop it; only if you know what it does, make {keeper} its owner: ALTER … OWNER TO {keeper}",
        )
    if lost:
        return fail(lost[0].what, lost[0].do)
    if open_schema:
        return open_schema
    return ok(f"turbo's tables and functions are owned by {keeper}, or by a role that is trusted as much")


def _table(session: Session) -> Finding:
    table = next(iter(session.rows("table")), None)
    if table is None:
        return skip("there is no agent_tasks yet")
    if table["kind"] != "r" or table["partition"]:
        kind = {"p": "a partitioned table", "v": "a view", "m": "a materialised view", "f": "a foreign table"}
        what = "a partition" if table["partition"] else kind.get(table["kind"], f"of kind {table['kind']}")
        return fail(
            f"agent_tasks is {what}: rows written directly to a partition bypass turbo's triggers, and the unique index on "
            "concurrency_key cannot span partitions",
            "make agent_tasks a plain table; turbo's retention keeps it small",
        )
    if table["has_children"]:
        return warn(
            "other tables inherit from agent_tasks: turbo claims their rows, but its triggers and unique "
            "indexes do not cover them",
            "ALTER TABLE … NO INHERIT public.agent_tasks",
        )
    if table["row_security"]:
        return fail(
            f"row-level security hides rows of agent_tasks from role {session.facts['role']}",
            "give the role BYPASSRLS, or a policy that lets it see and change every row",
        )
    if table["unlogged"]:
        return warn("agent_tasks is UNLOGGED: a crash of the server empties it", "ALTER TABLE agent_tasks SET LOGGED")
    return ok("agent_tasks is a plain table")


@cache
def _ours() -> dict[str, str]:
    """turbo's triggers and the table of each, from the migrations."""
    ours: dict[str, str] = {}
    for file in migrations.read():
        made = dict(_TRIGGER.findall(file.sql))
        ours |= made
        for name in set(_DROPPED_TRIGGER.findall(file.sql)) - made.keys():
            ours.pop(name, None)
    return ours


def _on_our_tables(session: Session, tables: set[str]) -> list[dict[str, object]]:
    return session.rows("triggers", {"tables": [f"public.{table}" for table in sorted(tables)]})


def _triggers(session: Session) -> Finding:
    there = {str(row["name"]): row["enabled"] for row in _on_our_tables(session, set(_ours().values()))}
    missing = sorted(_ours().keys() - there.keys())
    if missing:
        file = next(f for f in reversed(migrations.read()) if missing[0] in dict(_TRIGGER.findall(f.sql)))
        return fail(
            f"missing on {_ours()[missing[0]]}: {', '.join(missing)}; bad rows and hand edits are no longer checked, or "
            "workers are not woken",
            f"run migrations/{file.label}.sql again: it is safe to repeat",
        )
    disabled = sorted(name for name in _ours() if not there[name])
    if disabled:
        return fail(
            f"disabled: {', '.join(disabled)}",
            f"ALTER TABLE {_ours()[disabled[0]]} ENABLE TRIGGER {disabled[0]}",
        )
    return ok(f"all {len(there.keys() & _ours().keys())} of turbo's triggers are present and enabled")


def _other_triggers(session: Session) -> Finding:
    rows = _on_our_tables(session, {"agent_tasks"})
    others = [row for row in rows if row["name"] not in _ours() and row["enabled"]]
    if not others:
        return ok("agent_tasks has only turbo's triggers")
    named = ", ".join(f"{row['name']} ({row['does']})" for row in others)
    return warn(
        f"agent_tasks also has {named}: it runs in every insert, claim and finish, and may change what they "
        "write, slow them down, or fail them",
        f"check that it is intended, or DROP TRIGGER {others[0]['name']} ON agent_tasks"
        if others[0]["does"] != "a rule"
        else f"check that it is intended, or DROP RULE {others[0]['name']} ON agent_tasks",
    )


def _indexes(session: Session) -> Finding:
    dropped = {name for file in migrations.read() for name in _DROPPED_INDEX.findall(file.sql)}
    definitions = {
        f"{index.schema}.{index.index}": " ".join(
            line for line in block.sql.split("\n") if line and not line.startswith("--")
        )
        for file in migrations.read()
        for block in file.blocks
        if (index := block.concurrent_index) is not None and index.index not in dropped
    }
    for row in session.rows("indexes", {"names": list(definitions)}):
        if row["valid"]:
            continue
        what = "is INVALID" if row["present"] else "is missing"
        again = f"DROP INDEX CONCURRENTLY {row['name']}; " if row["present"] else ""
        return fail(f"{row['name']} {what}", f"{again}{' '.join(definitions[row['name']].split())}")
    return ok(f"all {len(definitions)} of turbo's indexes are present and valid")


def _sequences(session: Session) -> Finding:
    """How many rows can still be written, where a sequence numbers them?"""
    with session.deadline():
        found = [
            (table, one) for table in ("agent_actions", "agent_tasks") for one in sequences(session.connection, table)
        ]
    few = sorted(
        ((table, one) for table, one in found if one.few), key=lambda pair: (pair[1].left or 0) / max(1, pair[1].total)
    )
    if few:
        table, one = few[0]
        finding = fail if (one.left or 0) < SCARCE * one.total else warn
        return finding(what(table, one), remedy(table, one))
    unread = [one.sequence for _, one in found if one.left is None]
    if unread:
        return skip(f"this role may not read {', '.join(unread)}")
    return ok("no column is near the end of its sequence")


def _privileges(session: Session) -> Finding:
    lacks = [row["lacks"] for row in session.rows("privileges")]
    if lacks:
        role = session.facts["role"]
        return fail(
            f"role {role} lacks privileges that a worker needs: {', '.join(lacks)}",
            f"run turbo migrate --roles, then GRANT turbo_worker TO {role}",
        )
    return ok(f"role {session.facts['role']} has the privileges that a worker needs")
