"""Tab in a real bash and a real zsh: an id that a shell would interpret never reaches the line, let alone runs."""

import shlex
import subprocess
from pathlib import Path

import psycopg
import pytest

from tests.support.prefork import TURBO
from tests.support.requirements import require
from tests.support.shell import Shell
from tests.support.terminal import terminal

HARMLESS = ["t_good-1", "t_good.2", "t_good/3"]
HOSTILE = [
    "t_$(id>F)", "t_`id>F`", "t_;id>F", "t_|id>F", "t_&id>F", "t_\nid>F\n", "t_'$(id>F)'", 't_"$(id>F)"', "t_ $(id>F)",
    "t_\\", "t_*", "t_?", "t_[a-z]", "t_{a,b}", "t_~", "t_=ls", "t_!!", "t_#", "t_)) ; id>F ; ((", "t_:$(id>F)", "t_>F",
    "t_\x1b[2J", "t_\u202eevil", "t_ä", "t_%s", "t_^x", "t_'))' ; id>F #", "t_" + "x" * 300, "t_good\n",
]  # fmt: skip


@pytest.fixture
def offered(dsn: str, shell: Shell) -> Shell:
    """The hostile ids are the newest: they must not push the harmless ones out of the list either."""
    with psycopg.connect(dsn, autocommit=True) as db:
        insert = "insert into agent_tasks (task_id, task_description, created_at) values (%s, 'x', %s)"
        db.cursor().executemany(insert, [(task_id, "2026-01-01") for task_id in HARMLESS])
        more = [f"t_$(id>F){number}" for number in range(60)]
        db.cursor().executemany(insert, [(task_id, "2026-01-02") for task_id in [*HOSTILE, *more, "-t_flag", "~t"]])
    return shell


def completed(shell: Shell, kind: str, words: str) -> str:
    """What the script of a shell is told for this line."""
    env = {"_TURBO_COMPLETE": f"complete_{kind}", "_TYPER_COMPLETE_ARGS": words, "COMP_WORDS": words.replace(" ", "\n")}
    done = shell(**env, COMP_CWORD="2", _TYPER_COMPLETE_FISH_ACTION="get-args")
    assert done.err == ""
    return done.out


def test_only_harmless_whole_ids_are_offered(offered: Shell) -> None:
    for command in ("show", "diff", "logs", "cancel", "retry", "graph", "reply", "tell"):
        for prefix in ("", "t_"):
            assert completed(offered, "bash", f"turbo {command} {prefix}").split("\n")[:-1] == sorted(HARMLESS), command
    assert completed(offered, "bash", "turbo show t_$").split() == []
    assert completed(offered, "fish", "turbo show t_").split() == sorted(HARMLESS)
    assert completed(offered, "zsh", "turbo show t_").count('"') == 2 * len(HARMLESS)
    assert "$" not in completed(offered, "powershell", "turbo show t_")


def test_only_harmless_names_of_schedules_are_offered(offered: Shell) -> None:
    with psycopg.connect(offered.dsn, autocommit=True) as db:
        insert = "insert into agent_schedules (name, cron, task_description) values (%s, '0 3 * * *', 'x')"
        names = [*HARMLESS, *(name for name in HOSTILE if name.isprintable() and len(name) <= 200), "-t_flag"]
        db.cursor().executemany(insert, [(name,) for name in names])
        db.cursor().executemany(insert, [(f"t_ {number}",) for number in range(60)])
    for command in ("show", "pause"):
        env = {"_TURBO_COMPLETE": "complete_bash", "COMP_WORDS": f"turbo schedule {command} t_", "COMP_CWORD": "3"}
        done = offered(**env)
        assert (done.out.split("\n")[:-1], done.err) == (sorted(HARMLESS), ""), command
    env = {"_TURBO_COMPLETE": "complete_bash", "COMP_WORDS": "turbo schedule add -z Europe/Berl", "COMP_CWORD": "4"}
    assert offered(**env).out.split() == ["Europe/Berlin"]


def test_tab_in_bash_neither_runs_nor_inserts_an_id(offered: Shell, tmp_path: Path) -> None:
    """bash's own view of the words: as it would put them on the line."""
    script = tmp_path / "turbo.bash"
    script.write_text(offered(_TURBO_COMPLETE="source_bash").out)
    asked = (
        f"cd {shlex.quote(str(tmp_path))}; source {script}; COMP_WORDS=(turbo show t_); COMP_CWORD=2;"
        f" _turbo_completion {shlex.quote(str(TURBO))} t_ show; printf '%s\\n' \"${{COMPREPLY[@]}}\""
    )
    done = subprocess.run(
        ["bash", "--norc", "-c", asked], capture_output=True, text=True, env=offered.environment(), timeout=60
    )
    assert done.stdout.split("\n")[:-1] == sorted(HARMLESS), done
    assert not (tmp_path / "F").exists()


def test_tab_in_zsh_neither_runs_nor_inserts_an_id(offered: Shell, tmp_path: Path) -> None:
    place = tmp_path / "zsh"
    place.mkdir()
    script = offered(_TURBO_COMPLETE="source_zsh").out
    (place / ".zshrc").write_text(
        f"PS1='ready> '\npath=({shlex.quote(str(TURBO.parent))} $path)\nautoload -Uz compinit; compinit -D\n"
        f"setopt no_always_last_prompt\nunsetopt list_ambiguous\ncd {shlex.quote(str(place))}\n{script}\n"
    )
    environment = {"ZDOTDIR": str(place), "TURBO_DSN": offered.dsn, "HOME": str(place)}
    with terminal([require("zsh"), "-i"], 100, 30, environment) as screen:
        screen.shows("ready>")
        screen.keys("turbo show t_", "Tab")
        screen.shows("t_good")
        screen.keys("Tab")
        shown = screen.shows(*HARMLESS)
    assert not [line for line in shown.splitlines() if "$(" in line or "id>F" in line], shown
    assert not (place / "F").exists()


def test_tab_in_a_live_bash_offers_harmless_ids(offered: Shell, tmp_path: Path) -> None:
    """Also of those that wait: 600 hostile ones have waited longer, with more in them than anybody wants to load."""
    with psycopg.connect(offered.dsn, autocommit=True) as db:
        hold = (
            "insert into agent_tasks (task_id, task_description, input_data, status)"
            " select %s || n, 'x', %s, 'waiting' from generate_series(1, %s) n"
        )
        db.execute(hold, ["w_$(id>F)", '"x"', 600])  # type: ignore[arg-type]
        db.execute(hold, ["w_`id>F`", f'"{"x" * 1_000_000}"', 5])  # type: ignore[arg-type]
        db.execute(hold, ["w_good", '"x"', 1])  # type: ignore[arg-type]
    script = offered(_TURBO_COMPLETE="source_bash").out
    (tmp_path / "bashrc").write_text(
        f"PS1='ready> '\nPATH={shlex.quote(str(TURBO.parent))}:$PATH\ncd {shlex.quote(str(tmp_path))}\n{script}\n"
        "bind 'set bell-style none'\n"
    )
    bash = ["bash", "--noprofile", "--rcfile", tmp_path / "bashrc", "-i"]
    with terminal(bash, 100, 30, {"TURBO_DSN": offered.dsn, "HOME": tmp_path}) as screen:
        screen.shows("ready>")
        screen.keys("turbo answer w_", "Tab")
        screen.shows("turbo answer w_good1")
        screen.keys("C-u", "turbo show t_", "Tab")
        screen.shows("turbo show t_good")
        screen.keys("Tab", "Tab")
        shown = screen.shows(*HARMLESS)
    assert "id>F" not in shown
    assert not (tmp_path / "F").exists()
