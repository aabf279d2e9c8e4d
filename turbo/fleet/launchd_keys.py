"""The keys of a launchd job, with their types. launchd silently ignores unknown keys and values of the wrong type, so a plist
is checked against this table before it is written.

Source: launchd.plist(5) of macOS 14 (Apple), section XML PROPERTY LIST KEYS, paraphrased.
"""

from collections.abc import Iterator, Mapping
from typing import Any
from xml.etree import ElementTree

Type = type | dict[str, Any] | list[Any]
"""A scalar's type; {key: Type} for a dictionary, "*" for any key; [Type] for an array."""

KEEP_ALIVE: dict[str, Type] = {
    "SuccessfulExit": bool,  # false: start again unless it exited with 0
    "Crashed": bool,  # true: start again after a signal that counts as a crash
    "PathState": {"*": bool},
    "OtherJobEnabled": {"*": bool},
    "AfterInitialDemand": bool,
}

LIMITS: dict[str, Type] = {
    "Core": int,
    "CPU": int,
    "Data": int,
    "FileSize": int,
    "MemoryLock": int,
    "NumberOfFiles": int,
    "NumberOfProcesses": int,
    "ResidentSetSize": int,
    "Stack": int,
}

KEYS: dict[str, Type] = {
    "Label": str,  # required, unique in its domain
    "Disabled": bool,  # a hint that `launchctl enable` and `disable` override
    "UserName": str,  # daemons only
    "GroupName": str,
    "Program": str,
    "ProgramArguments": [str],  # execvp(3): no shell, no expansion of ~ and $
    "EnvironmentVariables": {"*": str},
    "WorkingDirectory": str,
    "RootDirectory": str,
    "Umask": int,  # decimal: 18 is 022
    "RunAtLoad": bool,
    "KeepAlive": KEEP_ALIVE,  # also a plain bool; several conditions are ORed
    "ThrottleInterval": int,  # seconds from one start to the next; default 10
    "ExitTimeOut": int,  # seconds from TERM to KILL; 0 means forever
    "ProcessType": str,  # Background, Standard, Adaptive, Interactive
    "Nice": int,
    "LowPriorityIO": bool,
    "LowPriorityBackgroundIO": bool,
    "AbandonProcessGroup": bool,  # false: the rest of its process group is killed with it
    "SessionCreate": bool,
    "LegacyTimers": bool,
    "EnableTransactions": bool,
    "LimitLoadToSessionType": str,  # default Aqua: the session at the screen
    "StandardInPath": str,
    "StandardOutPath": str,  # appended to, never rotated
    "StandardErrorPath": str,
    "SoftResourceLimits": LIMITS,
    "HardResourceLimits": LIMITS,
    "StartInterval": int,
    "WatchPaths": [str],
    "QueueDirectories": [str],
    "StartOnMount": bool,
    "LaunchOnlyOnce": bool,
    "Debug": bool,
    "AssociatedBundleIdentifiers": [str],
}


def wrong_keys(job: Mapping[str, Any], known: Mapping[str, Type] = KEYS, at: str = "") -> Iterator[str]:
    """What launchd would ignore in a job: unknown keys, and values of the wrong type."""
    for key, value in job.items():
        where = f"{at}.{key}" if at else key
        kind = known.get(key, known.get("*"))
        if kind is None:
            yield f"{where} is not a key of launchd"
        elif key == "KeepAlive" and isinstance(value, bool):
            continue
        else:
            yield from _wrong_value(value, kind, where)


def _wrong_value(value: Any, kind: Type, where: str) -> Iterator[str]:
    if isinstance(kind, dict):
        if isinstance(value, dict):
            yield from wrong_keys(value, kind, where)
        else:
            yield f"{where} is not a dictionary"
    elif isinstance(kind, list):
        if not isinstance(value, list):
            yield f"{where} is not an array"
        else:
            for i, item in enumerate(value):
                yield from _wrong_value(item, kind[0], f"{where}.{i}")
    elif type(value) is not kind:  # True is an int, but <true/> is not an <integer>
        yield f"{where} is not of type {kind.__name__}"


def duplicate_keys(xml: str) -> list[str]:
    """Keys that appear twice in one dictionary of a property list. plistlib and plutil accept them silently and lose one of
    the two values. Raises ElementTree.ParseError."""
    duplicates = []
    for dictionary in ElementTree.fromstring(xml).iter("dict"):  # noqa: S314 - a plist of the operator's own
        keys = [key.text or "" for key in dictionary.findall("key")]
        duplicates += sorted({key for key in keys if keys.count(key) > 1})
    return duplicates
