"""`turbo doctor`: finds problems before they stop work. One line per check, with the remedy.

check.py         a check, and which others must succeed first
session.py       the doctor's session with the database
server.py        the server: reachable, writable, its standbys, old transactions, its clock
schema.py        migrated; turbo's triggers and indexes complete; no foreign triggers on the table
delivery.py      notifications arrive, here and at every live worker
disk.py          the state directory, and results that dead workers left in it
surroundings.py  the environment of this host's worker
programs.py      env files, the executors' programs and logins, shared directories
metrics_port.py  the metrics port: free, or used by a worker
worktrees.py     the worktrees of finished tasks
former_users.py  what programs of users of an earlier run_as have left
examination.py   runs all checks, in order

Nothing is changed in the database or on the disk, except for a probe file that is removed again.
"""

from turbo.doctor.examination import examine
from turbo.domain.finding import Finding
from turbo.domain.states import Level

__all__ = ["Finding", "Level", "examine"]
