"""What the scripted agent of `make tour` says and does, scene by scene. A scene is found by its title in the prompt.

A scene has one or more turns: the second is played when a check has sent the work back. After those comes REPLY, for what a
person asks next.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

NO_DEFERRED = "CLAUDE_CODE_DISABLE_DEFERRED_TOOL_RESUME"


@dataclass(frozen=True)
class Step:
    """`kind`: say, tool, write (a file of the worktree), commit, limit (on the account beta), break. `seconds` pass before it."""

    kind: str
    text: str = ""
    result: str = ""
    input: Mapping[str, Any] | None = None
    seconds: float = 1.5


def _say(text: str, seconds: float = 1.5) -> Step:
    return Step("say", text, seconds=seconds)


def _bash(command: str, result: str, seconds: float = 1.5) -> Step:
    return Step("tool", "Bash", result, {"command": command}, seconds)


def _read(path: str, result: str) -> Step:
    return Step("tool", "Read", result, {"file_path": path})


def _ask(question: str, header: str, **options: str) -> Step:
    choices = [{"label": label.replace("_", " "), "description": text} for label, text in options.items()]
    one = {"question": question, "header": header, "options": choices, "multiSelect": False}
    return Step("tool", "AskUserQuestion", "", {"questions": [one]})


CART = """\
def total(prices, discount=0):
    \"\"\"The sum of `prices` in cents, less `discount` per cent.\"\"\"
    return int(sum(prices) * (100 - discount) / 100)
"""
ROUNDED = CART.replace("int(sum(prices) * (100 - discount) / 100)", "round(sum(prices) * (100 - discount) / 100)")
COUPON = '''

def with_coupon(prices, coupon):
    """The total, less what the coupon is worth. Never below zero."""
    return max(0, total(prices) - coupon.cents)
'''
TESTS = """\
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from shop.cart import total

failed = [name for name, ok in {
    "plain sum": total([250, 499]) == 749,
    "ten per cent": total([999], 10) == 899,
    "half a cent": total([5], 50) in (2, 3),
}.items() if not ok]
for name in failed:
    print(f"FAIL {name}")
print(f"{3 - len(failed)} of 3 passed")
sys.exit(bool(failed))
"""
REPORT = """\
<!doctype html><title>Coverage</title><h1>Coverage</h1>
<table><tr><th>module<th>lines<th>covered</tr><tr><td>shop/cart.py<td>14<td>100 %</tr></table>
"""

LOG = "\n".join(f"{n:4}  tests/test_shop_{n % 7}.py::test_case_{n} PASSED" for n in range(1, 121))

FIX = "Fix the rounding of totals"
COUPONS = "Add coupons to the cart"
RELEASE = "Push the release branch"
EXPLAIN = "Explain how the cart works"
AUDIT = "Audit the dependencies"
MIGRATE = "Move the shop to the new payment API"
NOTES = "Write the release notes"
BROKEN = "Translate the help pages"

PARTS = ("the client", "the webhooks", "refunds", "the tests", "the documentation")


def _part(number: int, part: str) -> tuple[Step, Step]:
    left = f"grep -rn payments.v1 shop/ | wc -l   # {part}"
    return _say(f"Part {number} of {len(PARTS)}: {part}.", 4), _bash(left, f"{6 - number}", 3)


SCENES: Mapping[str, Sequence[Sequence[Step]]] = {
    FIX: (
        (
            _say("I will look at the cart first, and then at its tests."),
            _read("shop/cart.py", CART),
            _say("`int` cuts the cents off. Rounding up should do."),
            Step("write", "shop/cart.py", CART.replace("int(", "1 + int(")),
            Step("commit", "Round totals up"),
            _say("Done: totals are rounded up now."),
        ),
        (
            _say("The check found what I missed: whole totals went up, too. I will use `round`."),
            Step("write", "shop/cart.py", ROUNDED),
            _bash("python tests.py", "3 of 3 passed"),
            Step("write", "report/coverage.html", REPORT),
            Step("commit", "Round totals to the nearest cent"),
            _say(
                "Totals are rounded to the nearest cent now, and the tests pass. The coverage report is in `report/`."
            ),
        ),
    ),
    COUPONS: (
        (
            _say("A coupon can take a share or an amount off. I will see what the shop has."),
            _read("shop/cart.py", CART),
            _ask(
                "What is a coupon worth?",
                "Coupon",
                An_amount="A fixed number of cents, never below zero.",
                A_share="Per cent of the total, as the discount is today.",
                Both="The better one for the customer.",
            ),
            _say("Then I know what to write."),
            Step("write", "shop/cart.py", CART + COUPON),
            _bash("python tests.py", "3 of 3 passed"),
            Step("commit", "Add coupons to the cart"),
            _say("Coupons are in: `with_coupon` takes them off the total, and the tests pass."),
        ),
    ),
    RELEASE: (
        (
            _say("The release is tagged. First a last look at what would go out."),
            _bash("git log --oneline -3", "4be1d02 Round totals to the nearest cent\n9c1f77a Add coupons to the cart"),
            _bash("git push origin release/2.4", "To shop.git\n * [new branch]  release/2.4 -> release/2.4"),
            _say("The release branch is pushed, and the pipeline has begun."),
        ),
    ),
    EXPLAIN: (
        (
            _say("I will read the module and run its tests, to be sure of what I say."),
            _read("shop/cart.py", CART),
            _bash("python -m pytest -v", LOG + "\n===== 120 passed in 4.21s ====="),
            _say(
                "**How the cart works**\n\n`total` adds up prices in cents and takes a discount in per cent off. Cents are whole "
                "numbers, so nothing is lost before the discount; the result is cut to whole cents after it.\n\n"
                "What may surprise you: a discount of half a cent goes to the shop."
            ),
        ),
    ),
    AUDIT: (
        (
            _say("I will list what the shop depends on."),
            _bash(
                "pip list --outdated", "Package   Version  Latest\nrequests  2.31.0   2.32.4\nurllib3   2.0.7    2.5.0"
            ),
            Step("limit"),
            _say("Two packages are behind. Neither has a known weakness that the shop can be reached by.", 3),
        ),
    ),
    MIGRATE: (
        (
            *(step for number, part in enumerate(PARTS, 1) for step in _part(number, part)),
            _say("The shop uses the new payment API everywhere. Nothing mentions the old one any more."),
        ),
    ),
    NOTES: (
        (
            _say("I will put the release notes together from what the other tasks have done."),
            _say("**2.4** — Totals are rounded to the nearest cent. Coupons. The new payment API.", 3),
        ),
    ),
    BROKEN: ((_say("I will begin with the German pages."), Step("break")),),
}
REPLY = (
    _say("I will look at that again.", 2),
    _bash("git diff --stat HEAD~1", " shop/cart.py | 2 +-\n 1 file changed, 1 insertion(+), 1 deletion(-)"),
    _say("You are right, and it is as you asked now."),
)


def scene_of(prompt: str) -> str:
    """The title of the last scene that the prompt names; '' for any other."""
    return max(SCENES, key=prompt.rfind) if any(title in prompt for title in SCENES) else ""


def steps(title: str, turn: int) -> Sequence[Step]:
    turns = SCENES.get(title, ())
    return turns[turn] if turn < len(turns) else REPLY


def asks(row: Mapping[str, Any]) -> bool:
    """Whether this row of a session is a call without its result: the deferred one."""
    content = row.get("message", {}).get("content")
    return row.get("type") == "assistant" and any(part.get("type") == "tool_use" for part in content)
