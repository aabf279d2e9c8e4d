"""Programs that run another program: env, sudo, xargs, find, …

A wrapper's options are known as far as they take a value, so that the program behind them is found. Should an option be missing
here, the words behind it are still compared with the rules, each in turn, as those of an unknown program.
"""

import re
from collections.abc import Sequence

from turbo.executors.shell.examiner import Examiner, Handler, Invocation
from turbo.executors.shell.lexer import Unreadable
from turbo.executors.shell.names import names
from turbo.executors.shell.reader import ASSIGNMENT
from turbo.executors.shell.words import UNKNOWN, Hole, Word

VALUES: dict[str, tuple[str, int]] = {
    # name: (its options with a value, the arguments before the program)
    "builtin": ("", 0),
    "busybox": ("", 0),
    "caffeinate": ("-t -w", 0),
    "chroot": ("--userspec --groups", 1),
    "chrt": ("-T -P -D", 1),
    "command": ("", 0),
    "doas": ("-u -C", 0),
    "env": ("-u --unset -C --chdir -P", 0),
    "exec": ("-a", 0),
    "fakeroot": ("-l -s -i -b --lib --faked", 0),
    "flock": ("-w -E --wait --timeout --conflict-exit-code", 1),
    "ionice": ("-c -n -t --class --classdata", 0),
    "ltrace": ("-e -o -p -u -s", 0),
    "nice": ("-n --adjustment", 0),
    "nocorrect": ("", 0),
    "noglob": ("", 0),
    "nohup": ("", 0),
    "numactl": ("-C -N -m -i -p", 0),
    "prlimit": ("-o --output", 0),
    "proxychains": ("-f", 0),
    "setarch": ("", 0),
    "setsid": ("", 0),
    "setpriv": ("--reuid --regid --groups", 0),
    "stdbuf": ("-i -o -e --input --output --error", 0),
    "strace": ("-e -o -p -u -s -E -P", 0),
    "sudo": ("-u -g -h -p -C -T -U -R -D -r -t --user --group --host --prompt --chdir --chroot", 0),
    "systemd-run": ("-p -u -t -E -M --property --unit --setenv", 0),
    "taskset": ("", 1),
    "time": ("-f -o --format --output", 0),
    "timeout": ("-k -s --kill-after --signal", 1),
    "torsocks": ("", 0),
    "toybox": ("", 0),
    "unbuffer": ("", 0),
    "unshare": ("-R -w -S -G", 0),
    "xargs": ("-a -d -E -I -J -L -n -P -R -s --arg-file --delimiter --max-lines --max-args --max-procs --max-chars", 0),
    "-": ("", 0),
}
UNCLEAR = names("parallel at batch crontab expect fc rush ed ex gdb lldb compgen complete bind")
PLACEHOLDER = re.compile(r"-[A-Za-z0-9]*?[IiJ](.*)|--replace(?:=(.*))?", re.DOTALL)
FIND_ACTIONS = frozenset(("-exec", "-execdir", "-ok", "-okdir"))
FD_ACTIONS = frozenset(("-x", "-X", "--exec", "--exec-batch"))


def wrapper(examiner: Examiner, invocation: Invocation) -> None:
    """Runs the program behind the options, and compares every word behind its name."""
    if invocation.name == "command" and re.match(r"-\w*[vV]", invocation.words[1].head if invocation.words[1:] else ""):
        return
    if invocation.name == "env":
        _split_string(examiner, invocation)
    examiner.arguments(invocation)
    at = _program(examiner, invocation)
    if at < len(invocation.words):
        examiner.run(invocation.words[at:], invocation.documents, certain=invocation.certain)
    elif invocation.name in ("sudo", "doas", "unshare", "chroot", "fakeroot", "caffeinate", "setpriv"):
        if any(re.match(r"-\w*[eklLvVK]|--(?:version|help|list|validate)", word.head) for word in invocation.words[1:]):
            return
        invocation.doubt("a shell that reads its commands from its input")


def _program(examiner: Examiner, invocation: Invocation) -> int:
    """Where the program's name is among the words."""
    options, operands = VALUES[invocation.name]
    valued, at, words = options.split(), 1, invocation.words
    while at < len(words):
        word = words[at]
        text = word.literal
        if ASSIGNMENT.match(word.head):
            examiner.assignment(word, certain=invocation.certain)
            at += 1
        elif text == "--":
            at += 1 + operands
            break
        elif word.head.startswith("-") and word.head != "-":
            if word.splits:
                invocation.doubt("an option that only the shell knows")
            at += 2 if text is not None and _takes_value(text, valued) else 1
        elif word.head == "-" and text == "-":
            at += 1
        elif operands and not word.splits:
            operands -= 1
            at += 1
        else:
            break
    return at


def _takes_value(option: str, valued: Sequence[str]) -> bool:
    """The next word is its value."""
    if option.startswith("--"):
        return option in valued
    short = [letter for letter in option[1:] if "-" + letter in valued]
    return bool(short) and option.endswith(short[0]) and option.index(short[0]) == len(option) - 1


def _split_string(examiner: Examiner, invocation: Invocation) -> None:
    """`env -S TEXT`: the text is split into words as a shell would."""
    for at, word in enumerate(invocation.words[1:], 1):
        found = re.match(r"-[i0v]*S|--split-string=?|--s[a-z-]*=?", word.head)
        if found is None:
            continue
        rest = word.after(found.end())
        text = rest if rest.as_text else next(iter(invocation.words[at + 1 : at + 2]), rest)
        if text.literal is None or re.search(r"[\\$#]", text.literal):
            raise Unreadable("env with a text that it splits by rules of its own")
        examiner.text(f"env {text.literal} $_" if text.literal.lstrip()[:1] == "-" else f"{text.literal} $_")


def xargs(examiner: Examiner, invocation: Invocation) -> None:
    """The program gets more words from the input, at its end or in the place of a placeholder."""
    words = list(invocation.words)
    for at, word in enumerate(invocation.words[1:], 1):
        if found := PLACEHOLDER.fullmatch(word.as_text):
            separate = word.head.endswith(("I", "J")) and at + 1 < len(words)
            placeholder = found[1] or found[2] or (invocation.words[at + 1].as_text if separate else "{}")
            words = [words[0], *(_with_hole(word, placeholder) for word in words[1:])]
    wrapper(examiner, Invocation(invocation.name, [*words, UNKNOWN], [None], invocation.certain))


def _with_hole(word: Word, placeholder: str) -> Word:
    """The placeholder's text is known to the wrapper alone."""
    pieces = (word.literal or "").split(placeholder) if placeholder else []
    if len(pieces) < 2:
        return word
    parts: list[str | Hole] = []
    for piece in pieces:
        parts += [piece, Hole.ONE] if piece else [Hole.ONE]
    return Word(tuple(parts[:-1]), word.start)


def find(examiner: Examiner, invocation: Invocation) -> None:
    """`find … -exec PROGRAM … ;`, and fd's options of that kind."""
    actions = FIND_ACTIONS if invocation.name == "find" else FD_ACTIONS
    examiner.arguments(invocation)
    for at, word in enumerate(invocation.words[1:], 1):
        if word.literal in actions:
            program = invocation.words[at + 1 :]
            ends = [i for i, following in enumerate(program) if following.literal in (";", "+")]
            run = [_with_hole(following, "{}") for following in program[: ends[0] if ends else None]]
            examiner.run(
                run if ends or invocation.name == "find" else [*run, UNKNOWN], [None], certain=invocation.certain
            )
        elif word.splits and invocation.name == "find":
            invocation.doubt("find with words that only the shell knows")


def flock(examiner: Examiner, invocation: Invocation) -> None:
    run_text_option(examiner, invocation)
    wrapper(examiner, invocation)


def run_text_option(examiner: Examiner, invocation: Invocation) -> None:
    """`su -c TEXT`."""
    for at, word in enumerate(invocation.words[1:], 1):
        found = re.match(r"-[a-z]*c$|--(?:session-)?command(?:=|$)|-c", word.head)
        if found is None:
            continue
        rest = word.after(found.end())
        text = rest if rest.as_text else next(iter(invocation.words[at + 1 : at + 2]), rest)
        if text.literal is None:
            raise Unreadable("a text that only the shell knows")
        examiner.text(text.literal)


def text_runner(examiner: Examiner, invocation: Invocation) -> None:
    """su, script, watch, …: their arguments are a shell's text, or a program."""
    run_text_option(examiner, invocation)
    examiner.arguments(invocation)
    for word in invocation.words[1:]:
        if word.literal is not None and re.search(r"[\s;&|]", word.literal):
            examiner.text(word.literal)
    if any(word.literal is None for word in invocation.words[1:]):
        invocation.doubt("a text that only the shell knows")


def unclear(_: Examiner, invocation: Invocation) -> None:
    """Programs that run what they read from somewhere else."""
    invocation.doubt(f"{invocation.name} runs what cannot be seen")


HANDLERS: dict[str, Handler] = {
    **dict.fromkeys(VALUES, wrapper),
    "xargs": xargs,
    **dict.fromkeys(("find", "fd", "fdfind"), find),
    "flock": flock,
    **dict.fromkeys(("su", "runuser", "script", "watch", "sg", "tmux", "screen", "hyperfine"), text_runner),
    **dict.fromkeys(
        (
            "parallel",
            "at",
            "batch",
            "crontab",
            "expect",
            "fc",
            "rush",
            "ed",
            "ex",
            "gdb",
            "lldb",
            "compgen",
            "complete",
            "bind",
        ),
        unclear,
    ),
}
