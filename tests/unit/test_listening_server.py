"""Where a worker with two DSNs may send statements: where its listener is."""

import pytest

from turbo import db
from turbo.db import identity
from turbo.db.address import Address
from turbo.db.identity import ListeningServer


def test_other_server_is_refused_while_the_listener_is_on_one() -> None:
    server = ListeningServer()
    server.check("before the first listener")
    server.listens_on("1")
    server.check("1")
    with pytest.raises(db.AnotherServer, match="let both name one database") as refused:
        server.check("2")
    assert db.is_transient(refused.value)
    assert not db.is_lasting(refused.value)
    assert db.kind(refused.value) == "another server"
    server.listens_on("2")
    server.check("2")


def test_lost_listener_binds_statements_only_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    server = ListeningServer()
    server.listens_on("1")
    server.lost()
    with pytest.raises(db.AnotherServer):
        server.check("2")
    monkeypatch.setattr(identity, "PATIENCE_SECONDS", -1.0)
    server.check("2")
    server.listens_on("1")
    with pytest.raises(db.AnotherServer):
        server.check("2")


def test_two_ways_share_one_identity() -> None:
    listen = Address("host=direct")
    address = Address("host=pooler", listen=listen)
    assert address.apart
    assert address.listen is listen
    assert not listen.apart
    assert listen.server is None
    listen.identity.settle("a")
    with pytest.raises(db.AnotherDatabase):
        address.identity.check("b")
    alone = Address("host=direct")
    assert alone.listen is alone
    assert not alone.apart
