"""A second opinion on where commands begin: bash's grammar for tree-sitter.

The grammar is made for editors: it recovers from what it does not know, and it passes over some text without a sign, for
example backticks in here-documents. So it clears nothing alone. Its part is to contradict the reader: a text that it cannot
parse, or in which it sees a command that the reader did not, is unreadable.
"""

from collections.abc import Iterator
from functools import cache

import tree_sitter
import tree_sitter_bash

from turbo.executors.shell.lexer import Reading, Unreadable

MOST_STEPS = 20_000
"""Of the parser: it asks this often whether to go on. A text of 64 KiB takes up to 4,000."""

COMMANDS = frozenset(("command", "declaration_command", "unset_command", "test_command"))


@cache
def bash() -> tree_sitter.Language:
    return tree_sitter.Language(tree_sitter_bash.language())


def confirm(text: str, reading: Reading) -> None:
    """Raises Unreadable if the grammar does not agree with the reading."""
    source = text.encode("utf-8")
    steps = 0

    def stop(_offset: int, _error: bool) -> bool:
        nonlocal steps
        steps += 1
        return steps > MOST_STEPS

    tree = tree_sitter.Parser(bash()).parse(lambda at, _point: source[at : at + 65536], progress_callback=stop)
    if tree is None or tree.root_node.has_error:
        raise Unreadable("the shell's grammar does not know it")
    for node in nodes(tree):
        if node.type in COMMANDS and node.start_byte not in reading.starts:
            raise Unreadable("a command that the reader has missed")


def nodes(tree: tree_sitter.Tree) -> Iterator[tree_sitter.Node]:
    """Every node, without recursion."""
    cursor = tree.walk()
    while True:
        if cursor.node is not None:
            yield cursor.node
        if cursor.goto_first_child():
            continue
        while not cursor.goto_next_sibling():
            if not cursor.goto_parent():
                return
