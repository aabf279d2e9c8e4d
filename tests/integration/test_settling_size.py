"""Large graphs: a fan-out, a fan-in and a chain are let go in their order, at a cost per edge that does not grow. Small in `make test`,
at full size in `make prove`; the figures are in docs/benchmarks (`make bench ONLY=graphs`)."""

import pytest

from benchmarks.measures import graphs
from tests.support.size import FULL, sized
from turbo import sql

FLAT = 3.0
"""The last steps may cost so many times the first ones: a machine that does other things at the same time is no growth."""


@pytest.fixture
async def one(dsn: str):
    async with graphs.settling(dsn) as found:
        yield found


@pytest.mark.sized
async def test_fan_out_is_let_go_at_once(one):
    figures = await graphs.fan_out(one, sized(200, graphs.FAN_OUT))
    assert figures["released"] > 0


@pytest.mark.sized
async def test_fan_in_waits_for_its_last_need(one):
    figures = await graphs.fan_in(one, sized(1_200, graphs.FAN_IN))
    assert not FULL or figures["last ÷ first"] < FLAT


@pytest.mark.sized
async def test_chain_goes_step_by_step(one):
    """And all of it is cancelled, and waits again, in passes over many levels at once."""
    figures = await graphs.chain(one, sized(400, graphs.CHAIN))
    assert not FULL or figures["last ÷ first"] < FLAT


ROWS = 20_000
TOUCHED = {"settle/settle": 1_500, "settle/tie": 1_500}
"""Pages at most, for ten dependents: whatever else the tables hold."""
PARAMETERS: dict[str, dict[str, object]] = {
    "settle/settle": {"after": None, "passed": "{}", "needs": 200, "edges": 1000, "worker": "w"},
    "settle/tie": {"after": 0, "notes": 200, "edges": 1000, "worker": "w"},
}


def touched(db, statement: str, parameters: dict[str, object]) -> int:
    """The pages that it reads, as a worker's session plans it. It is rolled back."""
    with db.transaction(force_rollback=True):
        (plan,) = db.execute(f"explain (analyze, buffers, format json) {statement}".encode(), parameters).fetchone()
    return int(plan[0]["Plan"]["Shared Hit Blocks"]) + int(plan[0]["Plan"]["Shared Read Blocks"])


@pytest.mark.parametrize("known", [False, True], ids=["never analysed", "analysed"])
async def test_steps_read_what_they_change(one, known):
    """Beside many tasks that are blocked, over, and needed by others."""
    db = one.db
    db.execute("set session_replication_role = replica")
    db.execute(
        "insert into agent_tasks (task_id, task_description, status, needs, needed, completed_at)"
        " select s || n, 'x', s, case s when 'blocked' then '{pending1}'::text[] end, case s when 'pending' then true end,"
        " case s when 'completed' then now() end"
        " from generate_series(1, %s::int) n, unnest('{blocked,completed,pending,scheduled}'::text[]) s",
        [ROWS],
    )
    for rows in (
        "agent_dependencies (task_id, needs) select 'blocked' || n, 'pending1'",
        "agent_blocked (task_id, needs_left) select 'blocked' || n, 1",
    ):
        db.execute(f"insert into {rows} from generate_series(1, {ROWS}) n".encode())
    db.execute("reset session_replication_role")
    db.execute("vacuum agent_tasks, agent_dependencies, agent_blocked, agent_unsettled")
    if known:
        db.execute("analyze agent_tasks, agent_dependencies, agent_blocked, agent_unsettled")
    for setting in (
        "plan_cache_mode = force_generic_plan",
        "enable_seqscan = off",
        "search_path = pg_catalog, pg_temp",
    ):
        db.execute(f"set {setting}")
    db.execute("select public.turbo_unsettled()")  # plans what is in it
    assert touched(db, "select public.turbo_unsettled()", {}) < 20
    graphs.insert(db, "'need'", "null", 1, 1)
    graphs.insert(db, "'d' || n", "'{need}'", 1, 10)
    assert touched(db, sql.statement("settle/tie"), PARAMETERS["settle/tie"]) < TOUCHED["settle/tie"]
    await one.one_pass()
    one.end("task_id = 'need'")
    assert touched(db, sql.statement("settle/settle"), PARAMETERS["settle/settle"]) < TOUCHED["settle/settle"]


WIDE = 3_000
TOUCHED_PER_NEED = 7
"""Pages at most: an edge that is made, and the look at each need whether it has one."""


async def test_many_needs_of_one_row_are_read_once(one):
    """And not once for each of them: the array lies outside its row, on pages of its own."""
    graphs.insert(one.db, "'n' || n", "null", 1, WIDE)
    graphs.insert(one.db, "'t'", f"(select array_agg('n' || m) from generate_series(1, {WIDE}) m)", 1, 1)
    pages = touched(one.db, sql.statement("settle/tie"), PARAMETERS["settle/tie"])
    assert pages < TOUCHED_PER_NEED * WIDE
