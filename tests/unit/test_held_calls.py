"""Which calls wait for a person: what a rule may be, and which calls of which tools it holds."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.shell_texts import ORDINARY
from turbo.executors.held_calls import HeldCalls

PUSH = "Bash(git push *)"
REFUSED = {
    "": "it is empty",
    "  ": "it is empty",
    "Bash(": "not of the form",
    "Bash)": "not of the form",
    "Bash(git push": "not of the form",
    "Bash(a) (b)": "not of the form",
    "Bash(git push *) ": None,  # blanks around a rule mean nothing
    "Bash()": "write Bash to hold every call",
    "Bash( )": "write Bash to hold every call",
    "Bash(git 'push' *)": "without quotes",
    "Bash(git push && true)": "one simple command",
    "Bash(git \\* x)": "without quotes",
    "Bash($X push)": "one simple command",
    "Bash(git:* push)": "only understood at its end",
    "Bash(A=1 git push)": "assignments before it are seen through",
    "Bash(/usr/bin/git push *)": "write git",
    "Bash(if *)": "shell's grammar",
    "Bash(! git push)": "shell's grammar",
    "bash(git push *)": "write Bash",
    "Bsh(git push *)": "write Bash",
    "ExitPlanmode": "write ExitPlanMode",
    "webfetch": "write WebFetch",
    "*": "it names no tool",
    "git push": "not of the form",
    "Edit(src/**)": "write Edit, which holds every call",
    "Write(x)": "write Write",
    "Read(~/.ssh/**)": "write Read",
    "Agent(Explore)": "write Agent",
    "Monitor(git push *)": "write Bash(git push *)",
    "PowerShell(git push *)": "write Bash(git push *)",
    "WebFetch(example.com)": "WebFetch(domain:example.com)",
    "WebFetch(domain:*)": "WebFetch(domain:example.com)",
    "WebFetch(domain:a b)": "WebFetch(domain:example.com)",
    "mcp__": "write mcp__server__tool",
    "mcp__*": "write mcp__server__tool",
    "mcp__x__y(z)": "write mcp__x__y",
    "mcp__x__[yz]": "write mcp__server__tool",
}


def holds(rule: str, tool: str, **call: object) -> bool:
    return HeldCalls([rule]).held_by(tool, call) == rule


def bash(rule: str, text: str) -> bool:
    return holds(rule, "Bash", command=text)


@pytest.mark.parametrize("rule", REFUSED)
def test_a_rule_that_cannot_be_kept_is_refused(rule: str) -> None:
    expected = REFUSED[rule]
    if expected is None:
        HeldCalls([rule])
        return
    with pytest.raises(ValueError) as refused:
        HeldCalls([PUSH, rule])
    message = str(refused.value)
    assert repr(rule) in message
    assert expected in message
    assert "\n" not in message


def test_a_rule_for_a_tool_holds_every_call() -> None:
    assert holds("ExitPlanMode", "ExitPlanMode", plan="x")
    assert holds("ExitPlanMode", "ExitPlanMode")
    assert holds("NewTool", "NewTool")  # a tool of a later CLI
    assert not holds("ExitPlanMode", "EnterPlanMode")
    assert holds("Edit", "Edit", file_path="x")
    assert holds("Agent", "Task", prompt="x")
    assert holds("Task", "Agent", prompt="x")
    for rule in ("Bash", "Bash(*)", "Bash(:*)"):
        assert bash(rule, "true")
        assert bash(rule, "")
        assert holds(rule, "Monitor", command="true")


def test_a_rule_for_an_mcp_server_holds_its_tools() -> None:
    for rule in ("mcp__github__*", "mcp__github"):
        assert holds(rule, "mcp__github__create_issue")
        assert not holds(rule, "mcp__gitlab__create_issue")
        assert not holds(rule, "mcp__github2__create_issue")
    assert holds("mcp__github__create_issue", "mcp__github__create_issue")
    assert not holds("mcp__github__create_issue", "mcp__github__create_issues")
    assert holds("mcp__github__create_*", "mcp__github__create_issue")
    assert not holds("mcp__github__create_*", "mcp__github__list")
    assert holds("mcp__*__delete", "mcp__x__delete")
    assert holds("mcp__my__server", "mcp__my__server__push"), "a server's name may hold two underscores"


@pytest.mark.parametrize(
    "url",
    [
        "https://example.com",
        "https://EXAMPLE.com./x",
        "http://a.example.com:80/x?y#z",
        "https://evil@example.com/",
        "https://evil.org\\@example.com/",
        "https://\uff45xample.com/",
        "https:/example.com/",
        "https://ex%61mple.com",
        "https://exam\tple.com",
        " https://example.com",
        "//example.com",
        "",
        None,
        7,
    ],
)
def test_a_domain_holds_every_address_that_may_be_in_it(url: object) -> None:
    assert holds("WebFetch(domain:example.com)", "WebFetch", url=url)


def test_a_domain_holds_no_other_address() -> None:
    for url in (
        "https://example.org",
        "https://notexample.com/",
        "https://a.b/?q=example.com",
        "https://a.b/@example.com",
    ):
        assert not holds("WebFetch(domain:example.com)", "WebFetch", url=url)


@pytest.mark.parametrize("text", ORDINARY)
def test_ordinary_work_is_not_held(text: str) -> None:
    assert not bash(PUSH, text)


def test_the_first_rule_that_matches_is_named() -> None:
    rules = ["ExitPlanMode", "Bash(npm publish *)", "Bash(git push *)", "Bash(git * --force)", "Bash(rm -rf *)"]
    held = HeldCalls(rules)

    def by(text: str) -> str | None:
        return held.held_by("Bash", {"command": text})

    assert by("git push --force") == rules[2]
    assert by("git fetch --force") == rules[3]
    assert by("git push && npm publish") == rules[1]
    assert by("cd x; rm -rf build") == rules[4]
    assert by("rm build") is None
    assert by("$X") == rules[1], "what cannot be read is held by the first rule for Bash"
    assert held.held_by("ExitPlanMode", {}) == "ExitPlanMode"
    assert HeldCalls([*rules, "Bash"]).held_by("Bash", {"command": "rm build"}) == "Bash"
    assert HeldCalls(["Bash", PUSH]).held_by("Bash", {"command": "git push"}) == "Bash"
    assert HeldCalls([PUSH, "Bash"]).held_by("Bash", {"command": "git push"}) == PUSH


def test_patterns_match_as_the_cli_matches_them() -> None:
    """Measured on Claude CLI 2.1.332 with `permissions.ask`; the CLI compares text, and so do these."""
    for rule in ("Bash(git push *)", "Bash(git push:*)", "Bash( git  push * )"):
        assert bash(rule, "git push")
        assert bash(rule, "git push x")
        assert bash(rule, "git  push x")
        assert not bash(rule, "git pull x")
        assert not bash(rule, "git status x")
    assert not bash("Bash(npm pub *)", "npm publish")
    assert bash("Bash(npm pub*)", "npm publish x")
    assert bash("Bash(npm publish)", "npm publish")
    assert not bash("Bash(npm publish)", "npm publish x")
    assert bash("Bash(git * x)", "git push x")
    assert not bash("Bash(git * x)", "git push")
    assert bash("Bash(rm -rf *)", "rm -rf x")
    assert bash("Bash(* --force)", "anything at all --force")
    assert bash("Bash(git push * --force)", "git push origin --force")


def test_options_before_the_subcommand_are_passed_over() -> None:
    assert bash("Bash(npm publish *)", "npm --registry x publish")
    assert bash("Bash(gh pr merge *)", "gh -R a/b pr merge 7")
    assert bash("Bash(kubectl delete *)", "kubectl -n prod --context=x delete pod")
    assert bash("Bash(terraform apply *)", "terraform -chdir=x apply")
    assert not bash("Bash(npm publish *)", "npm --registry x install")


def test_words_that_only_the_shell_knows_may_be_anything() -> None:
    assert bash("Bash(rm -rf *)", 'rm "$X" y')
    assert bash("Bash(npm publish)", "npm $X publish")
    assert bash("Bash(rm -rf *)", 'rm -i "$X"'), "its text may be -rf"
    assert not bash("Bash(rm -rf *)", 'rm x "$X"')
    assert not bash(PUSH, 'git commit -m "$X"')
    assert bash(PUSH, 'git "$X"')


@pytest.mark.parametrize(
    "call", [{}, {"command": None}, {"command": 7}, {"command": ["git", "push"]}, {"Command": "x"}]
)
def test_a_call_without_a_text_is_held(call: dict[str, object]) -> None:
    assert HeldCalls([PUSH]).held_by("Bash", call) == PUSH


def test_every_tool_that_runs_shell_text_is_compared() -> None:
    held = HeldCalls(["ExitPlanMode", PUSH])
    assert held.held_by("Monitor", {"command": "git push"}) == PUSH
    assert held.held_by("Monitor", {"command": "tail -f x"}) is None
    assert held.held_by("Monitor", {"ws": {"url": "ws://x"}}) is None
    assert held.held_by("Monitor", {}) == PUSH
    assert held.held_by("PowerShell", {"command": "true"}) == PUSH, "turbo does not read PowerShell"
    assert held.held_by("TaskStop", {"task_id": "x"}) is None
    assert HeldCalls(["ExitPlanMode"]).held_by("Bash", {"command": "git push"}) is None
    assert HeldCalls([]).held_by("Bash", {"command": "git push"}) is None
    assert holds("Monitor", "Monitor", command="tail -f x")


def test_the_parsers_are_loaded_for_shell_rules_only() -> None:
    program = (
        "import sys; from turbo.executors.held_calls import HeldCalls; HeldCalls(['ExitPlanMode', 'Bash', 'mcp__x__*']);"
        "print('tree_sitter' in sys.modules); HeldCalls(['Bash(git push *)']); print('tree_sitter' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["False", "True"]


def test_every_rule_of_the_guide_is_understood() -> None:
    page = (Path(__file__).parents[2] / "docs" / "how-to" / "approval-rules.md").read_text()
    table = page.partition("| rule | holds |")[2].partition("\n\n")[0]
    rules = re.findall(r"`([^`]+)`", "\n".join(line.split("|")[1] for line in table.splitlines()[2:]))
    assert len(rules) > 10
    for rule in rules:
        HeldCalls([rule])
