"""The plist of a worker or a page: a LaunchAgent, as launchd wants it.

launchd gives a job almost no environment, expands nothing, never rotates a log and ignores keys it does not know. So paths are
absolute; PATH, HOME and LANG are set; the worker writes and rotates its log; every key is checked against launchd_keys.
Exit 0 is a drain, and the worker stays down. After any other exit it is started again, no sooner than the throttle. KILL
comes after the drain and a margin. There is no ProcessType: Background would throttle the agents' CPU and disk.
"""

import plistlib
from typing import Any

from turbo.fleet.instance import Instance
from turbo.fleet.launchd_keys import duplicate_keys, wrong_keys

OPEN_FILES = 4096
"""launchd's default limit is 256; a run needs about five."""

HEAD = "<!-- Written by `turbo fleet render`. Change the fleet file, not this. -->\n"


def job(instance: Instance) -> dict[str, Any]:
    """The job as a dictionary."""
    return {
        "Label": instance.service,
        "ProgramArguments": list(instance.arguments),
        "WorkingDirectory": instance.home,
        "EnvironmentVariables": instance.environment,
        "RunAtLoad": True,
        "KeepAlive": {"SuccessfulExit": False},
        "ThrottleInterval": instance.throttle_seconds,
        "ExitTimeOut": instance.stop_seconds,
        "SoftResourceLimits": {"NumberOfFiles": OPEN_FILES},
        "StandardOutPath": instance.stderr_file,
        "StandardErrorPath": instance.stderr_file,
    }


def plist(instance: Instance) -> str:
    """The file's text."""
    content = job(instance)
    text = plistlib.dumps(content, sort_keys=False).decode()
    first, _, rest = text.partition("<dict>")
    text = f"{first}{HEAD}<dict>{rest}"
    wrong = [*wrong_keys(content), *(f"{key} appears twice" for key in duplicate_keys(text))]
    if wrong or plistlib.loads(text.encode()) != content:
        raise AssertionError(f"{instance.service}: {'; '.join(wrong) or 'the plist does not read back as written'}")
    return text
