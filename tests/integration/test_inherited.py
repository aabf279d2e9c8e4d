"""A part of the suite, started as badly as a caller can start it: it passes, because a run drops what it inherits."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import database, prefork

ROOT = Path(__file__).parents[2]

SUBSET = (
    "tests/integration/test_cli_tasks.py::test_filter_at_a_terminal_asks_first",  # Ctrl-C
    "tests/integration/test_cli_submit.py::test_ctrl_c_in_a_batch_reports_what_was_submitted",
    "tests/integration/test_cli_status.py::test_status_fits_a_terminal",
    "tests/integration/test_main_job.py::test_bad_input_fails_alone",
    "tests/unit/test_process.py::test_environment_is_exactly_what_was_given",
    "tests/unit/test_environment.py",
    "tests/unit/test_log_file.py",
    "tests/unit/test_workspace_names.py",
    "tests/integration/test_inherited.py::test_run_keeps_what_it_compiles",
)
"""A few tests that depend on signals, a terminal, the locale, the umask or the environment."""

HOSTILE = {
    "LANG": "C", "LC_ALL": "C", "LC_TIME": "C", "TZ": "Pacific/Kiritimati", "NO_COLOR": "1", "COLUMNS": "20",
    "PGHOST": "192.0.2.1", "PGDATABASE": "production", "PGUSER": "app", "PGOPTIONS": "-c search_path=elsewhere",
    "TURBO_DSN": "postgresql://192.0.2.1/production", "TURBO_CONFIG": "/nonexistent", "TURBO_RUN": "aa:bb",
    "PYTHONOPTIMIZE": "2", "PYTHONWARNINGS": "error", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0",
    "PYTHONIOENCODING": "ascii", "PYTHONPATH": "/nonexistent", "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONUNBUFFERED": "1",
    "GIT_DIR": "/nonexistent", "ANTHROPIC_API_KEY": "sk-theirs", "CLAUDE_CONFIG_DIR": "/nonexistent",
    "XDG_CONFIG_HOME": "/nonexistent", "XDG_DATA_HOME": "/nonexistent",
}  # fmt: skip

BADLY = "trap '' INT QUIT HUP TERM; umask 077; ulimit -c 0; exec \"$@\" </dev/null"


def test_run_keeps_what_it_compiles() -> None:
    """Else each of its processes would compile the package anew."""
    done = subprocess.run([sys.executable, "-c", "import sys; print(sys.dont_write_bytecode)"], capture_output=True)
    assert (sys.dont_write_bytecode, done.stdout) == (False, b"False\n")


def test_run_forks_the_processes_of_turbo(tmp_path: Path) -> None:
    """In a run without xdist too, whose environment is cleaned after its first imports."""
    with (tmp_path / "said").open("wb") as said:
        process = prefork.popen([prefork.TURBO, "--version"], env=os.environ, stdout=said, stderr=said)
        assert process.wait(60) == 0
    assert isinstance(process, prefork.Forked)


@pytest.mark.parametrize(("workers", "subset"), [([], SUBSET[:1]), (["-n", "1"], SUBSET)], ids=["serial", "xdist"])
def test_suite_passes_whatever_it_inherits(workers: list[str], subset: tuple[str, ...], tmp_path: Path) -> None:
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "TURBO_REQUIRE_REAL") if name in os.environ}
    done = subprocess.run(
        ["/bin/sh", "-c", BADLY, "sh", sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider",
         "--basetemp", tmp_path / "theirs", *workers, *subset],
        cwd=ROOT,
        env=kept | HOSTILE | {"TURBO_TEST_DSN": database.server().dsn},
        capture_output=True,
        text=True,
        start_new_session=True,
        timeout=150,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert " passed" in done.stdout
