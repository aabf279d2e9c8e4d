"""Python programs that start no other program, such as `import json; print(json.load(open('x'))['y'])`.

A program is cleared if it imports only modules of a list and names nothing that leads out of it. Whatever the list does not
know is not cleared.
"""

import ast
import re
import warnings

from turbo.executors.shell.names import names

MOST_TEXT = 16 * 1024
MODULES = names(
    """__future__ argparse base64 binascii bisect calendar collections csv datetime decimal difflib enum fractions
    functools hashlib heapq html itertools json math pathlib pprint random re statistics struct sys textwrap time
    tomllib unicodedata uuid zlib zoneinfo"""
)
FORBIDDEN = names(
    """breakpoint builtins bltns codecs compile ctypes delattr eval exec execfile get_field getattr globals help
    importlib input inspect io locals memoryview modules open_code os operator path_hooks meta_path platform popen
    posix posixpath pty runpy setattr setprofile settrace shutil signal site socket spawn subprocess system
    threading types vars ntpath nt Formatter f_back f_builtins f_globals f_locals get_type_hints gi_frame cr_frame
    ag_frame tb_frame remote_exec singledispatch singledispatchmethod"""
)


def starts_nothing(text: str) -> bool:
    """It is plain Python that can start no program, and call nothing by a name that it makes up."""
    if len(text) > MOST_TEXT or re.search(r"coding[:=]", text):
        return False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    left: list[ast.AST] = [tree]
    while left:
        node = left.pop()
        if not _allowed(node):
            return False
        left.extend(ast.iter_child_nodes(node))
    return True


def _allowed(node: ast.AST) -> bool:
    if isinstance(node, ast.Import):
        return all(alias.name.partition(".")[0] in MODULES and _plain(alias.name) for alias in node.names)
    if isinstance(node, ast.ImportFrom):
        return node.level == 0 and node.module in MODULES and all(_plain(alias.name) for alias in node.names)
    if isinstance(node, ast.Attribute):
        return _plain(node.attr) and node.attr != "sys" and not node.attr.startswith("_")
    if isinstance(node, ast.MatchClass):  # its attributes are no names
        return False
    if isinstance(node, ast.Name):
        return _plain(node.id) or node.id == "__name__"
    return True


def _plain(name: str) -> bool:
    """A name that leads to no way out: no `os`, `system`, `__class__`, `*`."""
    return all(
        part not in FORBIDDEN
        and not part.startswith("__")
        and part != "*"
        and not part.startswith(("exec", "spawn", "posix_"))
        for part in name.split(".")
    )
