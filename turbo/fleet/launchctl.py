"""launchd's launchctl, with its modern verbs, in the domain of the user who is logged in at the screen: gui/UID.

`bootout` is asynchronous. It returns 36 (Operation now in progress) while the worker drains. Until the label is gone, and for
about five seconds after the process has ended, `bootstrap` fails with 5 (Input/output error) or 37 (Operation already in
progress). So: bootout, poll `print` until it fails, then bootstrap until `print` shows the job; only `print` is trusted.
`kickstart` does not read the plist again, so it is used only for a job that waits for its throttle. An ssh session has the
same gui/UID while the user is logged in at the screen; without a login there is no such domain.

Source: launchctl(1); the exit codes as public installers report them (launchd/README.md). None of this was run on a Mac.
"""

import re
import time
from collections.abc import Sequence

from turbo.fleet.manager import MARK, Job, JobState, Manager, sections
from turbo.fleet.shell import FleetError

IN_PROGRESS = 36
GONE_SECONDS = 30.0
BOOTSTRAP_SECONDS = 30.0
POLL_SECONDS = 0.5

_STATE = re.compile(r"^\s*state = (.+)$", re.MULTILINE)
_PID = re.compile(r"^\s*pid = (\d+)$", re.MULTILINE)
_LAST = re.compile(r"^\s*last exit (?:code|reason|status) = (.+)$", re.MULTILINE)
_SIGNAL = re.compile(r"^\s*last terminating signal = (.+)$", re.MULTILINE)
_ENDED = re.compile(r"^ended (\d+)\s*\Z", re.MULTILINE)


def target(name: str) -> str:
    """The service target, as sh text: the host fills in its user id."""
    return f'"gui/$(id -u)/{name}"'


class Launchctl(Manager):
    program = "launchctl"
    suffix = ".plist"
    below_home = "Library/LaunchAgents"

    def start(self, name: str) -> None:
        job = self.state(name)
        if job.state is JobState.RUNNING:
            return
        if job.state is JobState.WAITING:
            self.checked(f"launchctl kickstart {target(name)}", f"cannot start {name}")
            return
        if job.loaded:  # down, perhaps with an older plist
            self.begin_stop(name)
            self._until_gone(name)
        self.checked(f"launchctl enable {target(name)}", f"cannot enable {name}")
        self._bootstrap(name)

    def begin_stop(self, name: str) -> None:
        done = self.run(f"launchctl bootout {target(name)}")
        if done.code in (0, IN_PROGRESS):
            return
        if self.state(name).loaded:
            raise FleetError(f"{self.host.name}: cannot stop {name}: {done.complaint}")

    def registered(self, names: Sequence[str]) -> None:
        """launchd reads the directory at the next login; `enable` undoes an earlier `disable`."""
        for name in names:
            self.checked(f"launchctl enable {target(name)}", f"cannot enable {name}")

    def forget(self, name: str) -> None:
        self.checked(f"rm -f {self.path(name)}", f"cannot remove {name}")

    def _bootstrap(self, name: str) -> None:
        end = time.monotonic() + BOOTSTRAP_SECONDS
        while True:
            done = self.run(f'launchctl bootstrap "gui/$(id -u)" {self.path(name)}')
            if self.shell.dry or self.state(name).loaded:
                return
            if self.run('launchctl print "gui/$(id -u)" >/dev/null 2>&1').code != 0:
                raise FleetError(
                    f"{self.host.name}: no user is logged in at its screen, so there is no gui domain for {name}; "
                    "log in there, or turn on automatic login"
                )
            if time.monotonic() > end:
                raise FleetError(
                    f"{self.host.name}: launchd does not load {name}: {done.complaint}; "
                    f"run `plutil -lint` on the file there, and see `log show --last 5m --predicate 'process == \"launchd\"'`"
                )
            time.sleep(POLL_SECONDS)

    def _until_gone(self, name: str) -> None:
        end = time.monotonic() + GONE_SECONDS
        while not self.shell.dry and self.state(name).loaded:
            if time.monotonic() > end:
                raise FleetError(f"{self.host.name}: launchd does not unload {name}; try again in a minute")
            time.sleep(POLL_SECONDS)

    def _states(self, names: Sequence[str]) -> dict[str, Job]:
        done = self.run(
            "command -v launchctl >/dev/null || exit 127; "
            f"for l in {' '.join(names)}; do echo; echo '{MARK}'$l; "
            'launchctl print "gui/$(id -u)/$l" 2>&1; r=$?; echo; echo ended $r; done'
        )
        if done.code == 127:
            raise FleetError(
                f"{self.host.name}: launchctl was not found; if this host is another machine, set `ssh`; if it is Linux, "
                "set `manager: systemd`"
            )
        printed = sections(done.out)
        return {name: _job(printed.get(name, "")) for name in names}


def _job(printed: str) -> Job:
    """Read the output of `launchctl print`, which is no stable interface: only the few words that all versions have."""
    ended = _ENDED.search(printed)
    if ended is None or ended[1] != "0":
        return Job(JobState.DOWN)
    state, pid = _STATE.search(printed), _PID.search(printed)
    why = _last_end(printed)
    if pid is not None:
        return Job(JobState.RUNNING, int(pid[1]), why, loaded=True)
    scheduled = state is not None and state[1] in ("spawn scheduled", "waiting", "spawning")
    return Job(JobState.WAITING if why or scheduled else JobState.DOWN, None, why, loaded=True)


def _last_end(printed: str) -> str:
    """How its last run failed: the exit code, or the signal; '' after a success."""
    if last := _LAST.search(printed):
        return "" if last[1].startswith(("(never", "0")) else f"exit {last[1]}"
    signal = _SIGNAL.search(printed)
    return signal[1] if signal else ""
