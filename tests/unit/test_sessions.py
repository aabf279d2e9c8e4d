"""Which sessions a worker lacks: reported after a while, and no longer than somebody wants them."""

import psycopg
import pytest

from tests.support.waiting import until_async
from turbo.db.address import Address
from turbo.domain.problem import ProblemKind
from turbo.runtime.problems import Problems
from turbo.worker import sessions
from turbo.worker.sessions import Sessions

REFUSED = psycopg.OperationalError('FATAL: too many connections for role "w"')


async def test_lack_is_reported_after_a_while_and_cleared(monkeypatch: pytest.MonkeyPatch) -> None:
    problems = Problems()
    need = Sessions(Address(""), problems).need("results")
    need.failed(REFUSED, True)
    assert problems.current == (), "a restart of the server is no problem"
    monkeypatch.setattr(sessions, "REPORT_SECONDS", 0.0)
    need.failed(REFUSED, False)
    assert problems.current == (), "a session that ended is not one that is refused"
    need.failed(REFUSED, True)
    (problem,) = problems.current
    assert problem.kind is ProblemKind.SESSIONS
    assert problem.what == f"the database gives it no session for results: {REFUSED}"
    need.opened("server")
    assert problems.current == ()


async def test_session_that_nobody_wants_any_more_is_no_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "REPORT_SECONDS", 0.0)
    monkeypatch.setattr(sessions, "FORGET_SECONDS", 0.1)
    problems = Problems()
    Sessions(Address(""), problems).need("results").failed(REFUSED, True)
    assert len(problems.current) == 1
    await until_async(lambda: not problems.current)


async def test_courtesy_gives_way_while_a_need_has_no_session(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "GIVE_WAY_SECONDS", 0.5)
    all_of_them = Sessions(Address(dsn), Problems())
    lane = all_of_them.courtesy("a courtesy")
    async with lane.use() as connection:
        all_of_them.need("results").failed(REFUSED, True)
        assert not connection.closed, "what is under way is finished"
    await until_async(lambda: connection.closed)
    with pytest.raises(psycopg.OperationalError, match="need the database's sessions"):
        await lane.open()

    async def open_again() -> bool:
        try:
            await lane.open()
        except psycopg.OperationalError:
            return False
        return True

    await until_async(open_again)
    await lane.close()
