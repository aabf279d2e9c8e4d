"""What an ordinary user meets: permission bits bind root only without the capabilities that override them."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.support.requirements import missing, require


def ordinary() -> tuple[str, ...]:
    """What to put before a command, so that permission bits bind it. Skips where root cannot give that up."""
    if os.geteuid() != 0:
        return ()
    prefix = (require("setpriv"), "--bounding-set=-dac_override,-dac_read_search,-fowner")
    if subprocess.run([*prefix, "true"], capture_output=True).returncode != 0:
        missing("setpriv cannot drop capabilities here")
    return prefix


def ordinary_python(code: str, *arguments: str | Path, env: Sequence[tuple[str, str]] = ()) -> str:
    """What `code` printed, run as an ordinary user with turbo and the tests importable. Raises AssertionError."""
    done = subprocess.run(
        [*ordinary(), sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), **dict(env)},
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
