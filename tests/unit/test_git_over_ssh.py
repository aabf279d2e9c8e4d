"""What an agent leaves in ~/.ssh is not obeyed, and not waited for, by turbo's git. ssh finds it by the user database, so a user of
the test's own has it. Real git and ssh; nothing is reached."""

import json
import sys

from tests.support.requirements import require
from tests.support.users import a_user

TRIES = """
import asyncio, json, os, pathlib, subprocess
from tests.support.repositories import Workshop, git, repository

home = pathlib.Path.home()
(home / ".ssh").mkdir(mode=0o700)
(home / ".ssh" / "config").write_text('Host *\\n  ProxyCommand /bin/sh -c "touch ~/ran; exit 1"\\n')
(home / ".ssh" / "config").chmod(0o600)
(home / "own").write_text("[core]\\n\\tsshCommand = ssh\\n")
repo = repository(home / "project")
git(repo, "remote", "add", "origin", "ssh://nosuchhost.invalid/x")

def ran():
    there = (home / "ran").exists()
    (home / "ran").unlink(missing_ok=True)
    return there

async def tried(ref="origin/main", fetch=True, environment={}, **settings):
    shop = Workshop(home, repo, environment=environment)
    outcome = await shop.run("t1", ref=ref, fetch=fetch, **settings)
    return ran(), str(outcome.error)

async def main():
    found = {
        "nothing": await tried(),
        "GIT_SSH_COMMAND": await tried(environment={"GIT_SSH_COMMAND": "ssh"}),
        "GIT_SSH": await tried(environment={"GIT_SSH": "ssh"}),
        "git_config": await tried(git_config=home / "own"),
        "GIT_CONFIG_GLOBAL": await tried(environment={"GIT_CONFIG_GLOBAL": str(home / "own")}),
    }
    for name, value in {"extensions.partialClone": "origin", "remote.origin.promisor": "true"}.items():
        git(repo, "config", name, value)
    found["missing object"] = await tried("1" * 40, fetch=False)
    subprocess.run(["git", "-C", repo, "fetch"], capture_output=True)
    found["plain git"] = ran(), ""
    for name in "known_hosts", "id_ed25519":
        os.mkfifo(home / ".ssh" / name)
        found[name] = await tried()
        (home / ".ssh" / name).unlink()
    (home / ".ssh" / "known_hosts2").touch()
    os.truncate(home / ".ssh" / "known_hosts2", 3 * 1024**3)
    found["known_hosts2"] = await tried()
    (home / ".ssh" / "known_hosts2").unlink()
    (home / ".ssh" / "known_hosts").symlink_to("/dev/null")
    found["nothing known"] = await tried()
    print(json.dumps(found))

asyncio.run(main())
"""


def test_ssh_config_that_an_agent_wrote_is_not_obeyed() -> None:
    require("ssh")
    with a_user("ssh") as user:
        out, _ = user.popen([sys.executable, "-c", TRIES], {}).communicate(timeout=120)
        assert out.startswith(b"{"), out.decode()
        told = json.loads(out)
    obeyed = {name for name, (ran, _) in told.items() if ran}
    assert obeyed == {"GIT_SSH_COMMAND", "GIT_SSH", "git_config", "GIT_CONFIG_GLOBAL", "plain git"}
    assert "turbo's git does not use ~/.ssh/config: see GIT_SSH_COMMAND" in told["nothing"][1]
    assert "~/.ssh/config" not in told["GIT_SSH_COMMAND"][1]
    for name in "known_hosts", "id_ed25519", "known_hosts2":
        assert f".ssh/{name} is a FIFO, a device, or larger than git should read: remove it" in told[name][1]
    assert "FIFO" not in told["nothing known"][1], "people link it to /dev/null"
