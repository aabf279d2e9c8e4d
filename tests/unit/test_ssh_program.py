"""The ssh of turbo's git and the administrator's configuration: nothing of it may count from ~/.ssh. Real ssh."""

import subprocess
from pathlib import Path

import pytest

from tests.support.requirements import require
from turbo.workspaces.ssh_program import relative_include, ssh_program


def ran(config: Path) -> "subprocess.CompletedProcess[str]":
    """What ssh says about a host with this configuration. It prints what it would do, and reaches nothing."""
    require("ssh")
    program = config.with_name("ssh")
    program.write_text(ssh_program(config))
    return subprocess.run(
        ["sh", program, "-G", "example.invalid"], capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.parametrize(
    ("line", "path"),
    [
        ("Include mine/*.conf", "mine/*.conf"),
        ("include ~/.ssh/more", "~/.ssh/more"),
        ('  INCLUDE = "my own"', "my own"),
        ('Include"mine"', "mine"),
        ("Include /nowhere/at/all mine", "mine"),
        ("Host *\n\tInclude mine", "mine"),
        ("Include ${HOME}/x", "${HOME}/x"),
    ],
)
def test_relative_include_is_refused_by_name(tmp_path: Path, line: str, path: str) -> None:
    config = tmp_path / "ssh_config"
    config.write_text(f"User nobody\n{line}\n")
    assert relative_include(config) == (config, path)
    done = ran(config)
    assert (done.returncode, done.stdout) == (255, "")
    assert f"ssh: {config}: Include {path} is looked for in ~/.ssh" in done.stderr


def test_relative_include_of_an_included_file_is_refused(tmp_path: Path) -> None:
    config, part = tmp_path / "ssh_config", tmp_path / "parts" / "a.conf"
    part.parent.mkdir()
    config.write_text(f"Include {tmp_path}/parts/*.conf\nInclude {config}\n")
    part.write_text("Host *\n    Include below/b\n")
    assert relative_include(config) == (part, "below/b")
    assert "below/b" in ran(config).stderr


def test_configuration_from_the_root_is_obeyed(tmp_path: Path) -> None:
    config, part = tmp_path / "ssh_config", tmp_path / "parts" / "a.conf"
    part.parent.mkdir()
    config.write_text(f'# Include mine\nInclude "{tmp_path}/parts/*.conf"\nUser includer\n')
    part.write_text("Port 4022\n")
    said = ran(config).stdout
    assert "port 4022" in said
    assert "user includer" in said
    assert "batchmode yes" in said


def test_missing_configuration_is_none(tmp_path: Path) -> None:
    done = ran(tmp_path / "nothing")
    assert done.returncode == 0
    assert "batchmode yes" in done.stdout
