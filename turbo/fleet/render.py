"""The files of a fleet: `<host>/<service>.plist` or `.service`, one per process, and `targets.json`."""

from pathlib import Path

from turbo.fleet.instance import Host, Instance
from turbo.fleet.launchd import plist
from turbo.fleet.model import Fleet
from turbo.fleet.systemd import unit
from turbo.fleet.targets import targets
from turbo.host.atomic_file import write_atomically

TARGETS = "targets.json"
SUFFIX = {"launchd": ".plist", "systemd": ".service"}


def service_file(instance: Instance) -> tuple[str, str]:
    """Its name and its text."""
    text = plist(instance) if instance.manager == "launchd" else unit(instance)
    return f"{instance.service}{SUFFIX[instance.manager]}", text


def rendered(fleet: Fleet, hosts: tuple[Host, ...]) -> dict[str, str]:
    """Path below the output directory → text. The targets are the whole fleet's, whatever `hosts` are chosen."""
    files = {}
    for host in hosts:
        for instance in host.instances:
            name, text = service_file(instance)
            files[f"{host.name}/{name}"] = text
    return files | {TARGETS: targets(fleet.hosts)}


def write(files: dict[str, str], out: Path) -> list[str]:
    """Write the files that differ, each atomically (Prometheus reads targets.json whenever it changes). Returns their names."""
    written = []
    for name, text in files.items():
        path = out / name
        if path.is_file() and path.read_text(encoding="utf-8", errors="replace") == text:
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, text, mode=0o666)  # minus the umask, like other files
        written.append(name)
    return written


def left_over(files: dict[str, str], hosts: tuple[Host, ...], out: Path) -> list[str]:
    """Services of these hosts that an earlier render wrote and that are no longer in the fleet."""
    return sorted(
        f"{host.name}/{path.name}"
        for host in hosts
        for path in (out / host.name).glob(f"{host.label}.*{SUFFIX[host.manager]}")
        if f"{host.name}/{path.name}" not in files
    )
