"""A DSN that cannot be read, or is misread: no part of its password is in any message."""

import traceback

import psycopg
import pytest

from turbo import Client, db
from turbo.cli.main import _explain
from turbo.config.loader import ConfigError
from turbo.config.worker import load_worker_config
from turbo.db.address import Address
from turbo.doctor import server
from turbo.doctor.session import Session
from turbo.migrate.error import MigrationError
from turbo.migrate.session import open_session
from turbo.worker.startup import _reason

PARTS = ("qwert", "asdfg", "yxcvb")

MALFORMED = [
    "postgresql://me:qwert@asdfg@127.0.0.1:1/db",
    "postgresql://me:qwert@asdfg/yxcvb@127.0.0.1:1/db",
    "postgresql://me:qwert@asdfg:yxcvb@127.0.0.1:1/db",
    "postgresql://me:qwert@asdfg?yxcvb@127.0.0.1:1/db",
    "postgresql://me:qwert@asdfg?user=yxcvb@127.0.0.1:1/db",
    "postgresql://me:qwert@127.0.0.1:asdfg@yxcvb/db",
    "postgresql://me:qwert/asdfg@127.0.0.1:1/db",
    "postgresql://me:/qwert@asdfg:1/db",
    "postgresql://127.0.0.1:1/qwert@asdfg/db",
    "postgresql://me:qwert%zz@127.0.0.1:1/db",
    "postgresql://me:qwert%00asdfg@127.0.0.1:1/db",
    "postgresql://me:qwert asdfg@yxcvb@127.0.0.1:1/db",
    "postgresql://me:qwert",
    "postgresql://me:12345678",
    "postgresql://[qwert:asdfg@127.0.0.1/db",
    "postgresql://[::1]qwert@127.0.0.1/db",
    "postgresql://127.0.0.1:1/db?passwrd=qwert",
    "postgresql://127.0.0.1:1/db?qwert=asdfg",
    "postgresql://127.0.0.1:1/db?password=qwert=asdfg",
    "host=127.0.0.1 port=1 password=qwert asdfg user=me",
    "host=127.0.0.1 port=1 password=qwert asdfg=yxcvb",
    "host=127.0.0.1 port=1 password='qwert asdfg",
    "host=127.0.0.1 port=1 passwort=qwert",
    "host=qwert@asdfg port=1 password=x",
    "host=127.0.0.1 port=qwert",
    "me:qwert@asdfg/db",
    "qwert",
    "host=127.0.0.1 password=qwert\0asdfg",
    "host=127.0.0.1 password=qwert\udc80asdfg junk",
]


def leaks(text: str, dsn: str) -> list[str]:
    return [part for part in (*PARTS, "12345678") if part in text and part in dsn]


@pytest.mark.parametrize("dsn", MALFORMED, ids=range(len(MALFORMED)))
def test_no_message_quotes_a_malformed_dsn(dsn: str, capsys: pytest.CaptureFixture[str]) -> None:
    with Session(dsn) as session:
        finding = server._reachable(session)
    said = [db.describe(dsn), finding.what, finding.do]
    with pytest.raises(psycopg.Error) as caught:
        Client(dsn)
    error = caught.value
    assert error.__context__ is None
    said += ["".join(traceback.format_exception(error)), repr(error), db.reason(error), _reason(error, dsn)]
    _explain(error, "status")
    with pytest.raises(MigrationError) as refused, open_session(dsn):
        pass
    said += ["".join(traceback.format_exception(refused.value)), *capsys.readouterr()]
    assert leaks("\n".join(said), dsn) == [], said


@pytest.mark.parametrize("dsn", MALFORMED, ids=range(len(MALFORMED)))
async def test_worker_session_quotes_no_malformed_dsn(dsn: str) -> None:
    with pytest.raises(psycopg.Error) as refused:
        await db.connect(Address(dsn), "turbo test")
    assert leaks("".join(traceback.format_exception(refused.value)), dsn) == []
    assert refused.value.__context__ is None


@pytest.mark.parametrize(
    ("dsn", "says"),
    [
        ("postgresql://me:p%zz@h/db", "a percent sign is not followed by two hexadecimal digits"),
        ("host=h password=my secret", 'a word has no "="'),
        ("host=h password='x", "a single quote is not closed"),
        ("host=h passwort=x", "libpq does not know one of its options"),
        ("postgresql://h/db?x", 'has no "="'),
    ],
)
def test_message_says_what_is_wrong_with_it(dsn: str, says: str) -> None:
    with pytest.raises(db.UnreadableDsn, match="the DSN cannot be read: ") as refused:
        db.connect_arguments(dsn, "x")
    assert says in str(refused.value)


@pytest.mark.parametrize(
    ("dsn", "place"),
    [
        ("postgresql://me:p%40ss%2Fword@db.example.org:5433/app", "db.example.org:5433/app"),
        ("postgresql://me:p?ss#word@h/app?sslmode=require", "h/app"),
        ("postgresql://me@a,b:1,[::1]/app", "a,b,::1:,1,/app"),
        ("host=/var/run/postgresql dbname=app", "/var/run/postgresql/app"),
        ("host=@abstract dbname=app user=me@server", "@abstract/app"),
        ("host=a,b port=1,2", "a,b:1,2/"),
        ("", "the default host/"),
    ],
)
def test_good_dsn_is_described_in_full(dsn: str, place: str) -> None:
    assert db.describe(dsn) == place


def test_dsn_in_the_wrong_place_of_a_file_is_not_shown(tmp_path, capsys: pytest.CaptureFixture[str]) -> None:  # type: ignore[no-untyped-def]
    file = tmp_path / "worker.yaml"
    for text in ("database: 'DSN'", "worker: {slots: 'DSN'}", "retry: 'DSN'", "database: {dsn: 'DSN'}"):
        file.write_text(text.replace("DSN", "postgresql://me:qwert@asdfg/yxcvb@h/db") + "\nexecutors: {}\n")
        with pytest.raises(ConfigError) as refused:
            load_worker_config(file)
        _explain(refused.value, "config check")
        said = capsys.readouterr().err
        assert leaks(said, "qwertasdfgyxcvb") == [], said
