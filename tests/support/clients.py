"""Where other languages' clients are, and a DSN in the form that all of them read."""

from pathlib import Path
from urllib.parse import quote

from psycopg import conninfo

TOOLS = Path(__file__).parents[1] / ".tools" / "node_modules"


def uri(dsn: str) -> str:
    known = conninfo.conninfo_to_dict(dsn)
    return f"postgresql://{known['user']}@{known['host']}:{known['port']}/{quote(str(known['dbname']))}"
