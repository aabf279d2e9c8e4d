"""systemd's systemctl, for the manager of one user.

That manager ends when its user logs out, and the workers with it, unless lingering is enabled. An ssh session that PAM did not
open does not know the manager's socket, so XDG_RUNTIME_DIR is set if it is missing.
"""

from collections.abc import Sequence

from turbo.fleet.manager import Job, JobState, Manager
from turbo.fleet.shell import Done, FleetError

BUS = 'export XDG_RUNTIME_DIR="${XDG_RUNTIME_DIR:-/run/user/$(id -u)}"; '
PROPERTIES = "Id,ActiveState,SubState,MainPID,Result,ExecMainStatus"

STATES = {
    "active": JobState.RUNNING,
    "reloading": JobState.RUNNING,
    "activating": JobState.WAITING,
    "deactivating": JobState.STOPPING,
}


class Systemctl(Manager):
    program = "systemctl"
    suffix = ".service"
    below_home = ".config/systemd/user"

    def start(self, name: str) -> None:
        self._systemctl(f"start --no-block {name}.service", f"cannot start {name}")

    def begin_stop(self, name: str) -> None:
        self._systemctl(f"stop --no-block {name}.service", f"cannot stop {name}")

    def registered(self, names: Sequence[str]) -> None:
        self._systemctl("daemon-reload", "cannot reload")
        if names:
            units = " ".join(f"{name}.service" for name in names)
            self._systemctl(f"--quiet enable {units}", "cannot enable")

    def forget(self, name: str) -> None:
        self._systemctl(f"--quiet disable {name}.service", f"cannot disable {name}")
        self.checked(f"rm -f {self.path(name)}", f"cannot remove {name}")
        self._systemctl("daemon-reload", "cannot reload")

    def notes(self) -> list[str]:
        done = self.run('loginctl show-user "$(id -un)" --property=Linger 2>/dev/null', assume=Done(0, "Linger=yes"))
        if "Linger=no" not in done.out:
            return []
        return [f"{self.host.name}: its workers end when their user logs out; run once there: loginctl enable-linger"]

    def _states(self, names: Sequence[str]) -> dict[str, Job]:
        units = " ".join(f"{name}.service" for name in names)
        done = self._systemctl(f"show --property={PROPERTIES} {units}", "cannot ask")
        jobs = dict.fromkeys(names, Job(JobState.DOWN))
        for block in done.out.strip().split("\n\n"):
            properties = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
            name = properties.get("Id", "").removesuffix(".service")
            if name in jobs:
                jobs[name] = _job(properties)
        return jobs

    def _systemctl(self, arguments: str, what: str) -> Done:
        done = self.run(f"{BUS}systemctl --user {arguments}")
        if done.code == 127:
            raise FleetError(
                f"{self.host.name}: no systemctl there; if it is another machine, set `ssh`; if it is a Mac, set `manager: launchd`"
            )
        if "Failed to connect to bus" in done.err:
            raise FleetError(
                f"{self.host.name}: no systemd manager runs for this user; run once there: loginctl enable-linger "
                f"(systemctl: {done.complaint})"
            )
        if done.code != 0:
            raise FleetError(f"{self.host.name}: {what}: {done.complaint}")
        return done


def _job(properties: dict[str, str]) -> Job:
    state = STATES.get(properties.get("ActiveState", ""), JobState.DOWN)
    pid = int(properties.get("MainPID", "0")) or None
    result = properties.get("Result", "success")
    why = "" if result == "success" else f"exit {properties.get('ExecMainStatus')}" if result == "exit-code" else result
    return Job(state, pid if state is not JobState.DOWN else None, why)
