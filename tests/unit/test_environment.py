"""What a program finds in its environment, and the file its secrets come from."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from turbo.domain.task import Task
from turbo.process.environment import ChildEnvironment, EnvFile, EnvironmentRefused, parse_env

TASK = Task(task_id="t 1", task_type="analysis", task_description="…", retry_count=2)
SECRET = "sk-ant-not-to-be-shown"


def secrets(path: Path, content: str = f"TOKEN={SECRET}\n", mode: int = 0o600) -> Path:
    path.write_text(content)
    path.chmod(mode)
    return path


# ── what is in it ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_only_allowed_variables_are_inherited(monkeypatch: pytest.MonkeyPatch) -> None:
    allowed = {
        name: f"/my {name}"
        for name in ("HOME", "PATH", "LANG", "LC_ALL", "LC_TIME", "TMPDIR", "TERM", "TZ", "USER", "SHELL")
    }
    secret = (
        "TURBO_DSN",
        "TURBO_LISTEN_DSN",
        "PGPASSWORD",
        "PGHOST",
        "AWS_SECRET_ACCESS_KEY",
        "LD_PRELOAD",
        "TURBO_RUN",
        "LCX",
    )
    others = dict.fromkeys(secret, "no")
    for name in os.environ:
        monkeypatch.delenv(name)
    for name, value in (allowed | others).items():
        monkeypatch.setenv(name, value)
    assert ChildEnvironment({}).for_task(TASK) == allowed | {
        "TURBO_TASK_ID": "t 1",
        "TURBO_TASK_TYPE": "analysis",
        "TURBO_ATTEMPT": "3",
    }


def test_env_file_overrides_env_and_env_overrides_inherited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LANG", "inherited")
    monkeypatch.setenv("TZ", "inherited")
    file = EnvFile(secrets(tmp_path / "env", "TZ=file\nTURBO_TASK_ID=file"))
    environment = ChildEnvironment({"LANG": "env", "TZ": "env", "CI": "1"}, file).for_task(TASK)
    assert {name: environment[name] for name in ("LANG", "TZ", "CI", "TURBO_TASK_ID")} == {
        "LANG": "env",
        "TZ": "file",
        "CI": "1",
        "TURBO_TASK_ID": "t 1",
    }


@pytest.mark.parametrize("name", ["TURBO_DSN", "TURBO_LISTEN_DSN", "PGPASSWORD", "PGHOST", "PGSERVICEFILE"])
def test_database_variables_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(EnvironmentRefused, match=rf"env of executor lint: {name} gives access to turbo's own database"):
        ChildEnvironment({name: SECRET}, owner="lint")
    with pytest.raises(EnvironmentRefused, match=rf"env_file .*/env: {name}") as refused:
        ChildEnvironment({}, EnvFile(secrets(tmp_path / "env", f"{name}={SECRET}")))
    assert SECRET not in str(refused.value)


@pytest.mark.parametrize("name", ["", "A B", "1A", "A=B", "A-B"])
def test_invalid_variable_name_is_refused(name: str) -> None:
    with pytest.raises(EnvironmentRefused, match="not a valid name of an environment variable"):
        ChildEnvironment({name: "x"})


# ── the file ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660, 0o610])
def test_file_open_to_others_is_refused(mode: int, tmp_path: Path) -> None:
    path = secrets(tmp_path / "env", mode=mode)
    with pytest.raises(
        EnvironmentRefused, match=rf"mode {mode:04o} lets other users .*: run chmod 600 {path}"
    ) as refused:
        EnvFile(path).values()
    assert SECRET not in str(refused.value)


@pytest.mark.parametrize("mode", [0o600, 0o400])
def test_private_file_is_read(mode: int, tmp_path: Path) -> None:
    assert EnvFile(secrets(tmp_path / "env", mode=mode)).values() == {"TOKEN": SECRET}


def test_special_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo", 0o600)
    with pytest.raises(EnvironmentRefused, match="not a regular file"):
        EnvFile(tmp_path / "fifo").values()
    with pytest.raises(EnvironmentRefused, match="cannot be read: No such file"):
        EnvFile(tmp_path / "missing").values()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_file_of_another_user_is_refused(tmp_path: Path) -> None:
    path = secrets(tmp_path / "env")
    os.chown(path, 12345, -1)
    with pytest.raises(EnvironmentRefused, match="belongs to user 12345, but the worker runs as user 0: chown it"):
        EnvFile(path).values()


def test_new_token_needs_no_restart_and_an_open_mode_is_noticed(tmp_path: Path) -> None:
    path = secrets(tmp_path / "env")
    environment = ChildEnvironment({}, EnvFile(path))
    path.write_text("TOKEN=renewed\n")
    os.utime(path, ns=(1, 1))
    assert environment.for_task(TASK)["TOKEN"] == "renewed"
    replacement = secrets(tmp_path / "new", "TOKEN=replaced\n")
    os.utime(replacement, ns=(1, 1))
    replacement.rename(path)
    assert environment.for_task(TASK)["TOKEN"] == "replaced"
    path.chmod(0o644)
    with pytest.raises(EnvironmentRefused, match="mode 0644"):
        environment.for_task(TASK)
    path.chmod(0o600)
    assert environment.for_task(TASK)["TOKEN"] == "replaced"


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("K=plain", "plain"),
        ("export K=exported", "exported"),
        ("  K = spaced out  ", "spaced out"),
        ("K=", ""),
        ("K=a=b==", "a=b=="),
        ("K=with#hash", "with#hash"),
        ("K=before # a comment", "before"),
        ("K= # only a comment", ""),
        ("K='single $HOME \\n # kept'", "single $HOME \\n # kept"),
        ('K="double \\"quoted\\" $HOME \\\\ \\n." # comment', 'double "quoted" $HOME \\ \n.'),
        ("K=it's", "it's"),
        ("K=$HOME/${X}", "$HOME/${X}"),
        ("K=windows\r", "windows"),
        ("K=ünï", "ünï"),
        ("# K=no\n\nK=first\nK=last", "last"),
        ("\ufeffK=bom", "bom"),
    ],
)
def test_env_lines_are_parsed_as_people_write_them(line: str, value: str) -> None:
    assert parse_env(line.encode(), "f") == {"K": value}


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (SECRET, "expected KEY=VALUE"),
        (f"={SECRET}", "expected KEY=VALUE"),
        (f"A B={SECRET}", "expected KEY=VALUE"),
        (f"K='{SECRET}", "the value of K has a quote that is not closed"),
        (f'K="{SECRET}" more', "the value of K has a quote that is not closed, or text after it"),
        (f"K={SECRET}\0", "the value of K contains a NUL"),
    ],
)
def test_bad_line_is_named_by_number_and_never_shown(bad: str, why: str) -> None:
    with pytest.raises(EnvironmentRefused, match=rf"^/a/file, line 3: {why}") as refused:
        parse_env(f"A=1\n# comment\n{bad}\n".encode(), "/a/file")
    assert SECRET not in str(refused.value)


@given(st.text(alphabet=st.characters(blacklist_characters="\0\n\r'", blacklist_categories=["Cs"])))
def test_single_quoted_text_is_kept(value: str) -> None:
    assert parse_env(f"K='{value}'".encode(), "f") == {"K": value}


def test_invalid_utf_8_reaches_the_program_unchanged() -> None:
    assert os.fsencode(parse_env(b"K=\xff\xfe", "f")["K"]) == b"\xff\xfe"


def test_huge_env_file_is_refused_by_its_size(tmp_path):
    path = secrets(tmp_path / "env", f"TOKEN={SECRET}")
    os.truncate(path, 2**40)
    with pytest.raises(EnvironmentRefused, match="is larger than"):
        EnvFile(path).values()
