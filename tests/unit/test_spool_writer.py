"""A spool whose recorded results cannot be put away still takes new ones: it says so once, and claims go on."""

from pathlib import Path

from tests.support.rig import finished
from turbo.domain.claim import ClaimRef
from turbo.host.spool import Spool
from turbo.host.spool_writer import SpoolWriter


async def test_done_that_refuses_is_said_once_and_stops_no_claim(tmp_path: Path) -> None:
    unwritable, unmoved = list[str | None](), list[str | None]()
    spool = Spool(tmp_path / "spool")
    writer = SpoolWriter(spool, unwritable.append, unmoved.append)
    first = await writer.put(finished(ClaimRef("a", 1), "w"))
    assert first is not None
    in_the_way = tmp_path / "spool" / "done"
    in_the_way.write_text("a file where the directory should be")
    for _ in range(3):
        await writer.done(first)
        await writer.check()
        assert await writer.put(finished(ClaimRef("b", 2), "w")) is not None
    assert unwritable == [], "claims go on"
    (why,) = unmoved
    assert str(in_the_way) in (why or "")
    in_the_way.unlink()
    await writer.done(first)
    assert unmoved[1:] == [None]
    assert [entry.result.task_id for entry in spool.recently_done()] == ["a"]
