"""Adoption: the statements that make an existing `agent_tasks` and `agent_actions` turbo's, as they are.

    survey ──▶ judged: nothing refused ──▶ steps: enum values ─▶ agent_tasks ─▶ its CHECKs validated ─▶ agent_actions

Nothing is dropped, renamed, retyped or rewritten. Columns are added, with constant or stable defaults only. A column without a
default may get one. A CHECK that refuses turbo's states is replaced, in the same statement, by one that accepts them and
everything it accepted before (docs/adr/0007). Each table is altered once, in a separate transaction that locks no other
table. The steps derive from the existing tables, so after a kill the next run makes only the remaining ones.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from psycopg import sql

from turbo.domain.states import TaskState
from turbo.migrate.adoption import contract
from turbo.migrate.adoption.contract import ExpectedColumn
from turbo.migrate.adoption.finding import quoted
from turbo.migrate.adoption.judge_columns import can_widen
from turbo.migrate.adoption.survey import AdoptedTable, CheckConstraint, Survey, TableColumn
from turbo.migrate.files import Block, Migration

MARK = (
    "insert into public.turbo_meta (key, value) values ('adopted_at', to_jsonb(now())) on conflict (key) do nothing;\n"
)
"""In the transaction that adds run_after. Its default is this same timestamp, by which the backfill recognises its rows."""

UNVALIDATED = "unvalidated "
"""Prefix of a constraint's name in turbo_meta: it was valid before turbo widened it, and must be validated again."""

STEPS_BEFORE = 2
BACKFILL_BEFORE = 3
"""The files before which they run: after turbo's tables and before the indexes; before the triggers."""


@dataclass(frozen=True, slots=True)
class Step:
    """One block of generated SQL. `why` is shown in the plan; `scans`: bytes that it reads."""

    block: Block
    in_transaction: bool
    why: str
    scans: int = 0


def steps(survey: Survey) -> list[Step]:
    """The remaining steps, in order. Empty for tables that turbo created, and for adopted ones."""
    left: list[Step] = []
    if survey.tasks is not None:
        left += _enum_values(survey.tasks)
        left += _tasks(survey, survey.tasks)
    if survey.actions is not None:
        left += _actions(survey.actions)
    return left


def concerns(pending: Sequence[Migration]) -> bool:
    """Whether the pending files start early enough for an adoption."""
    return any(migration.version <= BACKFILL_BEFORE for migration in pending)


def keys_of_its_own(survey: Survey) -> list[str]:
    """Existing columns that turbo will put a unique index on."""
    if survey.begun or survey.tasks is None:
        return []
    return [name for name in ("idempotency_key", "concurrency_key") if survey.tasks.column(name) is not None]


def has_been_built(block: Block, survey: Survey) -> bool:
    """Whether adoption builds the index of this block in another way."""
    index, actions = block.concurrent_index, survey.actions
    return actions is not None and actions.kind == "p" and index is not None and index.table == "agent_actions"


def will_mark(survey: Survey) -> bool:
    """Whether there will be waiting rows without a place in the queue."""
    return survey.begun or any(MARK in step.block.sql for step in steps(survey))


def _enum_values(tasks: AdoptedTable) -> Iterator[Step]:
    status = tasks.column("status")
    if status is None or status.enum is None:
        return
    for state in TaskState:
        if state not in status.labels:
            text = f"alter type {status.enum} add value if not exists '{state}';\n"
            yield Step(Block(text, 1), False, "a value of an enum cannot be used in the transaction that adds it")


def _tasks(survey: Survey, tasks: AdoptedTable) -> Iterator[Step]:
    parts = [*_missing(tasks, contract.TASKS), *_defaults(tasks, contract.TASKS)]
    after = MARK if any("column run_after " in part for part in parts) else ""
    key = tasks.column("task_id")
    if key is not None and not key.has_default:
        default, numbered = _new_id(tasks, key)
        parts += default
        after = numbered + after
    widened = _widened(survey, tasks)
    parts += _replacing(survey, widened)
    parts += _storage(tasks, contract.TASKS_STORAGE)
    if parts:
        yield _catalog_only(tasks, parts, after + _to_validate(widened))
    yield from _validation(survey, tasks, widened)


def widening(survey: Survey) -> list[Step]:
    """Only what makes the status of an agent_tasks that is turbo's already take the states in `survey.refused`, and an enum all."""
    if survey.tasks is None:
        return []
    widened = _widened(survey, survey.tasks)
    left = [*_enum_values(survey.tasks)]
    if widened:
        left.append(_catalog_only(survey.tasks, _replacing(survey, widened), _to_validate(widened)))
    return [*left, *_validation(survey, survey.tasks, widened)]


def _widened(survey: Survey, tasks: AdoptedTable) -> list[CheckConstraint]:
    names = [name for name in survey.refused if can_widen(survey, name)]
    return [check for check in tasks.checks if f"agent_tasks.{check.name}" in names]


def _replacing(survey: Survey, widened: Sequence[CheckConstraint]) -> Iterator[str]:
    for check in widened:
        states = ", ".join(f"'{s}'" for s in survey.refused[f"agent_tasks.{check.name}"])
        yield f"drop constraint {quoted(check.name)}"
        yield (
            f"add constraint {quoted(check.name)} check (({check.expression}) or status in ({states}))"
            f"{' no inherit' if check.no_inherit else ''} not valid"
        )


def _to_validate(widened: Sequence[CheckConstraint]) -> str:
    keys = (_literal(UNVALIDATED + check.name) for check in widened if check.validated)
    return "".join(
        f"insert into public.turbo_meta (key, value) values ({key}, 'true') on conflict do nothing;\n"  # noqa: S608
        for key in keys
    )


def _catalog_only(tasks: AdoptedTable, parts: Iterable[str], after: str) -> Step:
    text = _alter(tasks, [*parts]) + after
    return Step(Block(text, 1), True, "changes the catalog only: no row is read or written")


def _validation(survey: Survey, tasks: AdoptedTable, widened: Sequence[CheckConstraint]) -> Iterator[Step]:
    for name in (*survey.unvalidated, *(check.name for check in widened if check.validated)):
        text = (
            f"alter table public.agent_tasks validate constraint {quoted(name)};\n"
            f"delete from public.turbo_meta where key = {_literal(UNVALIDATED + name)};\n"
        )
        yield Step(Block(text, 1), True, "reads the table once", tasks.size)


def _actions(actions: AdoptedTable) -> Iterator[Step]:
    parts = [*_missing(actions, contract.ACTIONS), *_defaults(actions, contract.ACTIONS)]
    after = ""
    key = actions.column("action_id")
    if key is not None and not key.filled:
        parts_of_key, after = _new_id(actions, key)
        parts += parts_of_key
    if actions.kind == "r":
        parts += _storage(actions, contract.ACTIONS_STORAGE)
    if parts:
        yield Step(
            Block(_alter(actions, parts) + after, 1), True, "changes the catalog only: no row is read or written"
        )
    if actions.kind == "p" and not any(n.name.endswith(".agent_actions_task") for n in actions.of("index")):
        yield from _partitioned_index(actions)


def _partitioned_index(actions: AdoptedTable) -> Iterator[Step]:
    """PostgreSQL cannot build an index of a partitioned table concurrently. So one per partition, then the parent's over them."""
    plain = [partition for partition in actions.of("partition") if partition.other == "r"]
    for number, partition in enumerate(plain, start=1):
        text = f"create index concurrently if not exists agent_actions_task_{number} on {partition.name} (task_id, executed_at);\n"
        yield Step(Block(text, 1), False, "reads the partition twice", actions.size)
    text = "create index if not exists agent_actions_task on public.agent_actions (task_id, executed_at);\n"
    yield Step(
        Block(text, 1),
        True,
        "attaches the indexes of its partitions, and builds those of partitions created meanwhile",
    )


def _missing(table: AdoptedTable, known: Sequence[ExpectedColumn]) -> Iterator[str]:
    for want in known:
        if table.column(want.name) is None and want.add is not None:
            yield f"add column {want.name} {want.add}"


def _defaults(table: AdoptedTable, known: Sequence[ExpectedColumn]) -> Iterator[str]:
    for want in known:
        have = table.column(want.name)
        if want.default is None:
            continue
        if have is None:
            if want.add is not None and " default " not in want.add:
                yield f"alter column {want.name} set default {want.default}"
        elif not have.has_default and not have.generated and (have.required or not want.only_required):
            yield f"alter column {want.name} set default {want.default}"


def _new_id(table: AdoptedTable, key: TableColumn) -> tuple[list[str], str]:
    """How a key without a default gets one, and the statement that must follow. Empty if no default is possible.

    A number becomes an identity, which needs no grant; a separate sequence would need one for every inserter. It starts above
    the highest number, which is read under the lock of the ALTER TABLE.
    """
    name = key.name
    if key.kind in contract.WHOLE:
        highest = f"(select max({name}) from public.{table.name})"  # noqa: S608 - turbo's own names
        after = f"select setval(pg_get_serial_sequence('public.{table.name}', '{name}'), greatest(1, {highest} + 1), false);\n"
        return [f"alter column {name} add generated by default as identity"], after
    if key.kind == "uuid":
        return [f"alter column {name} set default gen_random_uuid()"], ""
    if contract.makes_text_id(key.kind, key.length):
        return [f"alter column {name} set default {contract.NEW_ID}"], ""
    return [], ""


def _storage(table: AdoptedTable, parameters: dict[str, str]) -> list[str]:
    have = {option.partition("=")[0] for option in table.options}
    missing = [f"{name} = {value}" for name, value in parameters.items() if name not in have]
    return [f"set ({', '.join(missing)})"] if missing else []


def _alter(table: AdoptedTable, parts: Sequence[str]) -> str:
    return f"alter table public.{table.name}\n  " + ",\n  ".join(parts) + ";\n"


def _literal(text: str) -> str:
    return sql.Literal(text).as_string(None)
