"""A DSN with several hosts is taken apart as libpq takes it apart."""

import pytest
from psycopg import conninfo

from turbo.db.multihost import each_host


@pytest.mark.parametrize(
    ("dsn", "hosts"),
    [
        ("postgresql://u@a/d", [("a", None)]),
        ("postgresql://u@a:1,b:2/d", [("a", "1"), ("b", "2")]),
        ("host=a,b,c port=7 dbname=d", [("a", "7"), ("b", "7"), ("c", "7")]),
        ("host=a,b port=1,2 dbname=d", [("a", "1"), ("b", "2")]),
        ("host=a,b port=1, dbname=d", [("a", "1"), ("b", None)]),
        ("host=a,,c dbname=d", [("a", None), (None, None), ("c", None)]),
        ("host=a,b port=1,2,3 dbname=d", [("a,b", "1,2,3")]),  # libpq says what is wrong with it
        ("service=mine", [(None, None)]),
    ],
)
def test_hosts_and_ports_are_paired(dsn, hosts, monkeypatch):
    for name in ("PGHOST", "PGHOSTADDR", "PGPORT"):
        monkeypatch.delenv(name, raising=False)
    found = each_host(conninfo.conninfo_to_dict(dsn))  # type: ignore[arg-type]
    assert [(one.get("host"), one.get("port")) for one in found] == hosts


def test_hostaddr_is_kept_beside_host():
    found = each_host({"host": "a,b", "hostaddr": "10.0.0.1,10.0.0.2", "port": "5432", "dbname": "d"})
    assert [(one["host"], one["hostaddr"], one["port"]) for one in found] == [
        ("a", "10.0.0.1", "5432"),
        ("b", "10.0.0.2", "5432"),
    ]


def test_environment_fills_what_the_dsn_omits(monkeypatch):
    monkeypatch.setenv("PGHOST", "a,b")
    monkeypatch.setenv("PGPORT", "1,2")
    assert [(one["host"], one["port"]) for one in each_host({"dbname": "d"})] == [("a", "1"), ("b", "2")]
