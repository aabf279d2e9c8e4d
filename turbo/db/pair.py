"""Two DSNs, one database: database.dsn and database.listen_dsn must lead to the same one.

A worker that beats in one database and claims in another would look dead where its tasks are, and they would run twice. So before
it does anything, it compares three things: the identity (turbo.db.identity), the start of the server, and the database's name.
Copies of a database have one identity, so the identity alone is not enough. Later every session and every pooled statement is checked.
"""

from turbo.db.address import Address
from turbo.db.connect import open_session
from turbo.db.dsn import describe
from turbo.db.errors import AnotherDatabase, AnotherServer
from turbo.db.identity import SERVER
from turbo.db.lane import Lane

_ASK_SERVER = f"select {SERVER}"

REMEDY = "let both name one database, or leave listen_dsn out"


async def check_pair(lane: Lane, address: Address, application_name: str) -> None:
    """`lane` leads to `address`, whose identity is settled. Raises AnotherDatabase, AnotherServer and `db.DATABASE_ERRORS`."""
    listen = address.listen
    both = f"{describe(address.dsn)} and {describe(listen.dsn)}"
    try:
        connection, direct = await open_session(listen, application_name)
    except AnotherDatabase:
        direct = None
    else:
        await connection.close()
    if direct is None:
        raise AnotherDatabase(f"dsn and listen_dsn lead to two databases; {REMEDY}: {both}")
    async with lane.use() as pooled:
        ((found,),) = await (await pooled.execute(_ASK_SERVER)).fetchall()
    if found != direct:
        raise AnotherServer(
            f"dsn and listen_dsn lead to two servers, or to two copies of a database; {REMEDY} (after a failover it passes): {both}"
        )
