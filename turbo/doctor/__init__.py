"""`turbo doctor`: what will go wrong, before it does. A line a check, and what to do.

check.py         a check, and which others must succeed first
session.py       the doctor's session with the database
server.py        the server: there, writable, its standbys, old transactions, its clock
schema.py        migrated; turbo's triggers and indexes whole; nobody else's on the table
delivery.py      notifications arrive: here, and at every live worker
disk.py          the state directory and what dead workers left in it
surroundings.py  the environment that this host's worker runs in
programs.py      env files, the executors' programs and logins, shared directories
metrics_port.py  free, or a worker's
examination.py   all of them, in order

Nothing is changed: not in the database, not on the disk (but for a file that is written and removed again).
"""

from turbo.doctor.examination import examine
from turbo.domain.finding import Finding
from turbo.domain.states import Level

__all__ = ["Finding", "Level", "examine"]
