"""The dialogs of `turbo top`: the confirmation and the list of keys."""

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.screen import ModalScreen
from textual.widgets import Static

KEYS = """\
 ↑ ↓  j k        move              PgUp PgDn Home End   scroll
 tab  1 2 3 4    tasks, workers, queues, accounts
 v               running, waiting or ended tasks
 /               filter the listed tasks (esc: all)
 enter  l        the task's log, as it grows
 c               cancel the task
 r               run the ended task again
 p               pause or resume the account, queue, or task's queue
 ?               these keys
 q               quit

 Who waits for you: turbo questions, answer, approve, deny.
 Counts stop at 10000+. The list holds 500 tasks at most.
 From the shell: turbo status, tasks, logs -f, cancel, retry, pause."""


class Confirm(ModalScreen[bool]):
    """A question at the bottom; y is yes, any other key no."""

    CSS = """
    Confirm { align: left bottom; background: transparent; }
    Confirm Static { height: 1; width: 100%; padding: 0 1; background: yellow; color: black; text-style: bold; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("y", "dismiss(True)", "yes", priority=True),
        Binding("n,escape,q,enter,space", "dismiss(False)", "no", priority=True),
    ]

    def __init__(self, question: str) -> None:
        super().__init__()
        self._question = question

    def compose(self) -> ComposeResult:
        yield Static(f"{self._question}   y: yes   n: no", markup=False)


class Help(ModalScreen[None]):
    CSS = """
    Help { align: center middle; background: transparent; }
    Help Static { width: 76; height: auto; border: round $accent; padding: 0 1; background: $background; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q,question_mark,enter,space", "dismiss(None)", "close", priority=True)
    ]

    def compose(self) -> ComposeResult:
        box = Static(KEYS, markup=False)
        box.border_title = "turbo top: keys"
        yield box
