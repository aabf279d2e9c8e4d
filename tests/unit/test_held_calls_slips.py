"""Shell texts that try to slip past `Bash(git push *)`: each is held, and a real shell shows that it does push."""

import random
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.requirements import require
from tests.support.shell_texts import ORDINARY, SLIPS, UNRUN
from turbo.executors.held_calls import HeldCalls
from turbo.executors.shell.guard import MOST_WORK, Examination
from turbo.executors.shell.lexer import Unreadable
from turbo.executors.shell.patterns import Pattern

PUSH = "Bash(git push *)"
HELD = HeldCalls([PUSH])
PIECES = [
    *(
        "git push",
        "git",
        "push",
        " ",
        "\n",
        ";",
        "&&",
        "||",
        "|",
        "&",
        "(",
        ")",
        "{ ",
        "; }",
        "'",
        '"',
        "\\",
        "`",
        "$(",
        "$((",
    ),
    *(
        "))",
        "<<E\n",
        "\nE\n",
        "<<'E'\n",
        "#",
        " #",
        "if ",
        "then ",
        "fi",
        "case x in ",
        "esac",
        "x) ",
        ";;",
        "for i in ",
        "do ",
    ),
    *(
        "done",
        "$'",
        "$",
        "${x:-",
        "}",
        "x=",
        "a=(",
        "[[ ",
        "]]",
        "<",
        "> ",
        "&>",
        "<(",
        "echo ",
        "eval ",
        "sh -c ",
        "env ",
        "! ",
    ),
    *(
        "f()",
        "\\\n",
        "{a,",
        "*",
        "=",
        "[",
        "<<<",
        "\r\n",
        "\0",
        "\u00a0",
        "é",
        "\ud800",
        "~",
        "time ",
        "${(e):-",
        "&!",
        "function f ",
    ),
]


def is_held(text: str) -> bool:
    return HELD.held_by("Bash", {"command": text}) == PUSH


@pytest.fixture
def told(tmp_path: Path) -> Callable[[str], list[str]]:
    """What a text tells git when a real bash runs it: with a git that writes down its arguments."""
    require("bash")
    bin_directory, ledger = tmp_path / "bin", tmp_path / "ledger"
    bin_directory.mkdir()
    (bin_directory / "git").write_text(f'#!/bin/sh\nprintf "%s\\n" "$*" >>{shlex.quote(str(ledger))}\n')
    (bin_directory / "git").chmod(0o755)
    numbers = iter(range(10_000))

    def run(text: str) -> list[str]:
        ledger.write_text("")
        here = tmp_path / f"run-{next(numbers)}"
        here.mkdir()
        subprocess.run(
            ["bash", "-c", text.replace("/opt/bin", str(bin_directory))],
            cwd=here,
            env={"PATH": f"{bin_directory}:/usr/bin:/bin", "HOME": str(here)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=20,
        )
        return ledger.read_text().splitlines()

    return run


def pushes(lines: list[str]) -> bool:
    return any("push" in line.split() for line in lines)


@pytest.mark.parametrize("text", SLIPS + UNRUN)
def test_a_text_that_tries_to_slip_past_is_held(text: str) -> None:
    assert is_held(text)


def needs(text: str) -> set[str]:
    """Programs in a text that a host may lack."""
    return {"flock", "setsid", "ionice", "script", "perl", "python3", "make", "stdbuf", "awk"} & set(
        re.findall(r"\w+", text)
    )


def test_each_of_these_texts_does_push(told: Callable[[str], list[str]]) -> None:
    for program in sorted({name for text in SLIPS for name in needs(text)}):
        require(program)
    assert [text for text in SLIPS if not pushes(told(text))] == []
    assert told("git status") == ["status"], "the ledger tells them apart"
    assert len(SLIPS) > 200


def test_none_of_the_ordinary_texts_about_git_pushes(told: Callable[[str], list[str]]) -> None:
    harmless = [text for text in ORDINARY if re.match(r"(?:git|echo|printf|#|cat <<)", text)]
    assert len(harmless) > 20
    assert [text for text in harmless if any(line.startswith("push ") or line == "push" for line in told(text))] == []


def test_a_comparison_of_first_words_lets_most_of_them_through() -> None:
    def naive(text: str) -> bool:
        return re.match(r"\s*git\s+push(?:\s|$)", text) is not None

    def careful(text: str) -> bool:
        return any(naive(part) for part in re.split(r"&&|\|\||[;|&\n]", text))

    assert len([text for text in SLIPS if not naive(text)]) > 0.9 * len(SLIPS)
    assert len([text for text in SLIPS if not careful(text)]) > 0.6 * len(SLIPS)
    for text in (
        "g'i't pu\"\"sh",
        "$G push",
        "sh -c 'git push'",
        "git -C . push",
        "echo $(git push)",
        "env -S 'git push'",
    ):
        assert not careful(text)
        assert is_held(text)


def test_the_grammar_alone_would_pass_over_commands() -> None:
    """Why the reader reads quoting by itself: the tree-sitter grammar sees no command in these, and no error."""
    import tree_sitter

    from turbo.executors.shell.syntax import bash, nodes

    missed = []
    for text in ("cat <<E\nx `git push` $(y)\nE\n", "x='git push'\ncat <<E\nx `$x`\n$(y)\nE\n"):
        tree = tree_sitter.Parser(bash()).parse(text.encode())
        seen = [node.text for node in nodes(tree) if node.type == "command_name"]
        if not tree.root_node.has_error and not {b"git", b"$x"} & set(seen):
            missed.append(text)
        assert is_held(text)
    assert missed, "the grammar has become better: this test may go"


@given(st.lists(st.sampled_from(PIECES), max_size=25).map("".join) | st.text(max_size=60))
@settings(max_examples=100, deadline=None, derandomize=True)
def test_no_text_raises(text: str) -> None:
    assert HELD.held_by("Bash", {"command": text}) in (None, PUSH)


@given(st.sampled_from(SLIPS), st.sampled_from(ORDINARY), st.sampled_from([" ; ", "\n", " && ", " | ", " & "]))
@settings(max_examples=50, deadline=None, derandomize=True)
def test_a_text_in_company_is_held(slip: str, ordinary: str, operator: str) -> None:
    if "\n" not in ordinary and "#" not in ordinary and not ordinary.endswith("&") and ordinary:
        assert is_held(ordinary + operator + slip)
    if "<<" not in slip and "#" not in slip and not slip.endswith(("\n", "&")):
        assert is_held(f"{slip}\n{ordinary}")


@given(st.sampled_from(SLIPS))
@settings(max_examples=30, deadline=None, derandomize=True)
def test_a_text_inside_another_is_held(slip: str) -> None:
    assert is_held(f"sh -c {shlex.quote(slip)}")
    assert is_held(f"eval {shlex.quote(slip)}")
    assert is_held(f"cat <(\n{slip}\n)")


def test_mutated_texts_that_are_not_held_do_not_push(told: Callable[[str], list[str]]) -> None:
    """A short run of what was run for hours: texts cut, joined and sprinkled with operators and quotes."""
    dice = random.Random(20)
    texts = [text for text in SLIPS if not re.search(r"setsid|script|sleep|read|select", text)]
    pieces = [piece for piece in PIECES if piece not in ("\0", "\ud800")]
    unheld = set()
    for _ in range(800):
        text = dice.choice(texts)
        for _ in range(dice.randint(1, 4)):
            at = dice.randint(0, len(text))
            text = text[:at] + (dice.choice(pieces) if dice.random() < 0.6 else "") + text[at + dice.randint(0, 2) :]
        if "git" in text and not is_held(text):
            unheld.add(text)
    assert len(unheld) > 20
    assert [text for text in sorted(unheld)[:30] if pushes(told(text))] == []


LONG = {
    "words": "a ",
    "commands": "a;",
    "parentheses": "(",
    "substitutions": "$(",
    "quotes": '"$(',
    "backticks": "`a` ",
    "arithmetic": "((",
    "arithmetic that is none": "$(( '",
    "expansions": "${a:-",
    "braces": "{",
    "lists in braces": "{a,{b,",
    "sequences": "{1..2}",
    "redirections": "<a ",
    "here-documents": "cat <<E\nE\n",
    "arrays": "a=(x) ",
    "cases": "case x in x) ",
    "comments": "#a\n",
    "texts in words": "'a b' ",
    "subscripts": "[",
    "newlines": "\n",
}


def calls(text: str) -> int:
    """Calls of Python functions that a text takes."""
    count = 0

    def profile(_frame: object, event: str, _argument: object) -> None:
        nonlocal count
        count += event == "call"

    sys.setprofile(profile)
    try:
        HELD.held_by("Bash", {"command": text})
    finally:
        sys.setprofile(None)
    return count


@pytest.mark.parametrize("piece", LONG.values(), ids=LONG)
def test_work_grows_with_the_length_of_the_text(piece: str) -> None:
    short, long = (calls("foo " + piece * (length // len(piece))) for length in (1_000, 2_000))
    assert long < 2.6 * short + 1_000


@pytest.mark.parametrize("piece", ["foo git ", "sudo ", "env -u ", "git -C ", "xargs sh -c "])
def test_a_text_that_takes_too_much_work_is_held(piece: str) -> None:
    """Programs that may run each other: their arguments are compared again for each."""
    text = "foo " + piece * 900
    examination = Examination([Pattern("npm publish *")])
    with pytest.raises(Unreadable, match="too much work"):
        examination.text(text)
    assert examination.steps < MOST_WORK + len(text)
    assert HeldCalls(["Bash(npm publish *)"]).held_by("Bash", {"command": text})


def test_a_text_that_is_too_long_is_held() -> None:
    assert is_held("true # " + "x" * 1_000_000)
    assert not is_held("true # " + "x" * 10_000)


def test_a_text_of_ordinary_size_in_quotes_is_read() -> None:
    body = "It's a `line` of a file: git push $(x)\n" * 300
    assert not is_held(f"cat > notes.txt <<'EOF'\n{body}EOF\ngit add notes.txt")
    assert is_held(f"cat > notes.txt <<'EOF'\n{body}EOF\ngit push")
    assert is_held(f"cat > notes.txt <<EOF\n{body}$(git push)\nEOF\ngit add notes.txt")
