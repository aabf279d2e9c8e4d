"""A fleet of two workers under the launchd of this machine: install, start, restart, kill, stop, uninstall. For the workflow `macos`.

    python scripts/try_launchd.py [--directory DIR]

Each step says what it expects. The first one that is not met ends the run with exit code 1, after what launchd, the workers' logs and
their stderr have to say, and everything is removed again. TURBO_DSN names the database; without it the embedded one is started in DIR.
"""

import argparse
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

TURBO = Path(sys.executable).parent / "turbo"
PREFIX = "com.agent-turbo.try"
NAMES = ("pair-1", "pair-2")
SECONDS = 90.0
CONFIG = """\
worker: {{slots: 2, queues: [try], drain_seconds: 20, heartbeat_seconds: 2, lease_seconds: 20, state_dir: {state}}}
executors: {{words: {{kind: command, command: [/usr/bin/wc, -w]}}}}
routes: {{default: words}}
"""
FLEET = """\
defaults:
  config: {directory}/worker.yaml
  executable: {turbo}
  env_file: {directory}/turbo.env
  label: {prefix}
  home: {home}
  log_dir: {directory}/logs
  path: [/usr/bin, /bin]
  drain_seconds: 30
  restart_throttle_seconds: 2
hosts:
  here: {{manager: launchd, workers: [{{name: pair, count: 2, slots: 2, metrics_port: {port}}}]}}
"""


class Unmet(Exception):
    """A step did not bring what was expected of it."""


class Fleet:
    """Two workers with files in `directory`. `said`: what the last command printed."""

    def __init__(self, directory: Path, home: Path, port: int) -> None:
        self.directory, self.home, self.port = directory, home, port
        self.environment = {**os.environ, "HOME": str(home)}
        self.said = ""

    def turbo(self, *words: str, code: int = 0) -> str:
        """Its output. Raises Unmet for another exit code."""
        return self.run([str(TURBO), *words], code)

    def fleet(self, *words: str, code: int = 0) -> str:
        return self.turbo("fleet", *words, "--file", str(self.directory / "fleet.yaml"), code=code)

    def run(self, argv: list[str], code: int | None = 0, seconds: float = 240.0) -> str:
        shown = " ".join(argv).replace(str(TURBO), "turbo")
        print(f"    $ {shown}", flush=True)
        done = subprocess.run(
            argv, env=self.environment, cwd=self.directory, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, timeout=seconds,
        )  # fmt: skip
        self.said = done.stdout
        if code is not None and done.returncode != code:
            raise Unmet(f"`{shown}` should exit with {code}, and exited with {done.returncode}:\n{done.stdout}")
        return done.stdout

    def printed(self, name: str) -> str:
        """What `launchctl print` says of a worker; empty when launchd does not know it."""
        done = subprocess.run(
            ["launchctl", "print", f"gui/{os.getuid()}/{PREFIX}.{name}"], env=self.environment, capture_output=True, text=True
        )  # fmt: skip
        return done.stdout if done.returncode == 0 else ""

    def pid(self, name: str) -> int | None:
        found = re.search(r"^\s*pid = (\d+)", self.printed(name), re.M)
        return int(found[1]) if found else None

    def ids(self) -> dict[str, str]:
        """The workers that are up: name → worker id."""
        rows = json.loads(self.turbo("status", "--json"))["workers"]
        return {row["name"]: row["worker_id"] for row in rows if row["state"] == "up"}

    def evidence(self) -> Iterator[str]:
        for name in NAMES:
            yield f"launchctl print gui/{os.getuid()}/{PREFIX}.{name}:\n{self.printed(name) or '(launchd does not know it)'}"
        for file in sorted((self.directory / "logs").glob("*")):
            yield f"{file}, its end:\n{file.read_text(errors='replace')[-4000:]}"
        agents = self.home / "Library" / "LaunchAgents"
        yield f"{agents}: {sorted(file.name for file in agents.glob('*')) if agents.is_dir() else 'missing'}"


def expect(what: str, found: Callable[[], object], seconds: float = SECONDS) -> None:
    """Wait until `found()` is true. Raises Unmet with what it was last."""
    end = time.monotonic() + seconds
    while not (last := found()):
        if time.monotonic() > end:
            raise Unmet(f"expected within {seconds:.0f} s: {what}; it was {last!r}")
        time.sleep(0.5)


# ── the steps ───────────────────────────────────────────────────────────────────────────────────────────────────────


def this_machine(fleet: Fleet) -> None:
    """launchd has a domain gui/UID for this user: somebody is logged in at the screen."""
    if shutil.which("sw_vers"):
        print("    " + fleet.run(["sw_vers"]).replace("\n", "; "))
    fleet.run(["launchctl", "print", f"gui/{os.getuid()}"])
    fleet.turbo("self", "check")


def database(fleet: Fleet) -> None:
    """A database answers, and has turbo's tables."""
    if not fleet.environment.get("TURBO_DSN"):
        fleet.environment["TURBO_DSN"] = fleet.turbo("db", "start", "--data-dir", str(fleet.directory / "pg")).strip()
    fleet.turbo("migrate")


def files(fleet: Fleet) -> None:
    """worker.yaml and fleet.yaml are valid."""
    env_file = fleet.directory / "turbo.env"
    env_file.touch(0o600)
    env_file.write_text(f"TURBO_DSN={fleet.environment['TURBO_DSN']}\n")
    (fleet.directory / "worker.yaml").write_text(CONFIG.format(state=fleet.directory / "state"))
    (fleet.directory / "fleet.yaml").write_text(
        FLEET.format(directory=fleet.directory, turbo=TURBO, prefix=PREFIX, home=fleet.home, port=fleet.port)
    )
    fleet.turbo("config", "check", str(fleet.directory / "fleet.yaml"))


def install(fleet: Fleet) -> None:
    """Two plists are in ~/Library/LaunchAgents, plutil takes them, and nothing runs yet."""
    fleet.fleet("install")
    for name in NAMES:
        plist = fleet.home / "Library" / "LaunchAgents" / f"{PREFIX}.{name}.plist"
        if not plist.is_file():
            raise Unmet(f"no {plist}")
        if shutil.which("plutil"):
            fleet.run(["plutil", "-lint", str(plist)])
        if fleet.printed(name):
            raise Unmet(f"{name} is loaded, and was only installed")


def start(fleet: Fleet) -> None:
    """launchd has started both, and turbo's three sources agree."""
    fleet.fleet("start")
    for name in NAMES:
        expect(f"launchctl print names a pid of {name}", lambda name=name: fleet.pid(name))  # type: ignore[misc]
    expect("both workers are up", lambda: set(fleet.ids()) == set(NAMES))
    fleet.fleet("status")


def work(fleet: Fleet) -> None:
    """Two tasks are done."""
    for number in range(2):
        fleet.turbo("submit", f"task {number}", "--queue", "try", "--wait", "--timeout", "60")


def kill(fleet: Fleet) -> None:
    """launchd starts a worker again that was killed, as another process, and its tasks go on."""
    before, id_before = fleet.pid(NAMES[0]), fleet.ids()[NAMES[0]]
    assert before is not None
    print(f"    kill -9 {before}")
    os.kill(before, signal.SIGKILL)
    expect(f"another pid than {before}", lambda: fleet.pid(NAMES[0]) not in (None, before))
    expect(f"another id than {id_before}", lambda: fleet.ids().get(NAMES[0]) not in (None, id_before))
    work(fleet)


def restart(fleet: Fleet) -> None:
    """One after the other gets a new process, and nothing else is left of the old ones."""
    before = fleet.ids()
    fleet.fleet("restart")
    after = fleet.ids()
    if set(after) != set(NAMES) or set(after.values()) & set(before.values()):
        raise Unmet(f"two new ids were expected after {before}, and it is {after}")
    fleet.fleet("status")
    work(fleet)


def stop(fleet: Fleet) -> None:
    """Both are gone from launchd, and stay so for longer than the throttle."""
    fleet.fleet("stop")
    for name in NAMES:
        expect(f"launchd does not know {name}", lambda name=name: not fleet.printed(name))  # type: ignore[misc]
    time.sleep(5)
    back = [name for name in NAMES if fleet.printed(name)]
    if back or fleet.ids():
        raise Unmet(f"still there 5 s after the stop: {back or fleet.ids()}")


def uninstall(fleet: Fleet) -> None:
    """No plist is left."""
    fleet.fleet("uninstall")
    left = [file.name for file in (fleet.home / "Library" / "LaunchAgents").glob(f"{PREFIX}*")]
    if left:
        raise Unmet(f"still there: {left}")


STEPS = (this_machine, database, files, install, start, work, kill, restart, stop, uninstall)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--directory", type=Path, help="where the files go; a new one in the temporary directory, if not given"
    )
    parser.add_argument("--port", type=int, default=19464, help="the first of two ports for metrics")
    arguments = parser.parse_args()
    directory = (arguments.directory or Path(tempfile.mkdtemp(prefix="turbo-try-"))).resolve()
    directory.mkdir(parents=True, exist_ok=True)
    fleet = Fleet(directory, Path.home(), arguments.port)
    begun = time.monotonic()
    try:
        for number, step in enumerate(STEPS, 1):
            print(f"[{number}/{len(STEPS)}] {step.__name__}: {step.__doc__}", flush=True)
            try:
                step(fleet)
            except (Unmet, OSError, KeyError, ValueError, AssertionError, subprocess.TimeoutExpired) as error:
                for text in fleet.evidence():
                    print(f"\n{text}")
                print(
                    f"\nFAILED in step {number} of {len(STEPS)}, {step.__name__}: {type(error).__name__}: {error}",
                    flush=True,
                )
                return 1
        print(f"all {len(STEPS)} steps passed in {time.monotonic() - begun:.0f} s")
        return 0
    finally:
        _remove(fleet)


def _remove(fleet: Fleet) -> None:
    """Whatever is left of it."""
    with contextlib.suppress(Unmet, OSError, subprocess.TimeoutExpired):
        if (fleet.directory / "fleet.yaml").is_file():
            fleet.fleet("uninstall")
    if (fleet.directory / "pg").is_dir():
        with contextlib.suppress(Unmet, OSError, subprocess.TimeoutExpired):
            fleet.turbo("db", "stop", "--data-dir", str(fleet.directory / "pg"))


if __name__ == "__main__":
    sys.exit(main())
