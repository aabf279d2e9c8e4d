"""Subscriptions of one loopback service: each login has a window that fills up with every request, and may be dead."""

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from tests.support import messages_api
from tests.support.accounts import AccountsBench, is_probe
from tests.support.messages_api import Answer, Request


@dataclass
class Subscription:
    """`used`: of its five hours, from 0 to 1; each request adds `step`. `resets_at`: Unix seconds; `rests`: it is so many seconds
    after the first refusal. `measured`: it says how much is used. `refuses_history`: it takes no session with answers in it.
    `credits`: 0 for none. `limited_models`: past their weekly limit. `starts`: when its requests for tasks came, in monotonic
    seconds."""

    used: float = 0.0
    step: float = 0.01
    resets_at: float = field(default_factory=lambda: time.time() + 3600)
    rests: float | None = None
    measured: bool = True
    refuses_history: bool = False
    credits: int = 1
    limited_models: tuple[str, ...] = ()
    dead: bool = False
    starts: list[float] = field(default_factory=list)

    @property
    def runs(self) -> int:
        return len(self.starts)

    def answer(self, request: Request) -> Answer:
        if not is_probe(request):
            self.starts.append(time.monotonic())
        if self.dead:
            return messages_api.expired_token()
        if time.time() >= self.resets_at:
            self.used, self.resets_at = 0.0, time.time() + 3600
        if any(model in request.body["model"] for model in self.limited_models):
            return messages_api.usage_limit("seven_day_opus", int(self.resets_at))
        if not self.credits:
            return messages_api.credits_required()
        if self.refuses_history and any(message["role"] == "assistant" for message in request.body["messages"]):
            return messages_api.error(400, "invalid_request_error", "Invalid signature in thinking block")
        if self.used >= 1 and self.rests is not None:
            self.resets_at, self.rests = time.time() + self.rests, None
        if self.used >= 1:
            return messages_api.usage_limit("five_hour", int(self.resets_at))
        self.used = min(1.0, self.used + self.step)
        done = messages_api.text("done")
        return windows(done, five_hour=(self.used, self.resets_at)) if self.measured else done


def windows(answer: Answer, **used: tuple[float, float]) -> Answer:
    """An answer that says how much of which window is used, and when it is reset."""
    headers: dict[str, str] = {"status": "allowed"}
    for window, (utilization, resets_at) in used.items():
        short = {"five_hour": "5h", "seven_day": "7d"}[window]
        headers |= {
            f"{short}-status": "allowed",
            f"{short}-utilization": f"{utilization:.2f}",
            f"{short}-reset": str(int(resets_at)),
        }
    unified = {f"anthropic-ratelimit-unified-{name}": value for name, value in headers.items()}
    return replace(answer, headers={**answer.headers, **unified})


@dataclass
class Service:
    """The service behind a bench's API. `subscriptions`: by account."""

    bench: AccountsBench
    subscriptions: dict[str, Subscription]
    _one: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.bench.api.decide = self.decide

    def decide(self, request: Request) -> Answer | None:
        account = account_of(request)
        with self._one:
            return self.subscriptions[account].answer(request) if account in self.subscriptions else None

    def pool(self, host: str, rules: Mapping[str, Mapping[str, Any]] | None = None, **more: Any) -> dict[str, Any]:
        """A worker.yaml whose executor `claude` has all of them, in this order. `rules`: more keys of an account."""
        slots = more.pop("slots", 10)
        config = self.bench.claude(host, login={}, account="none", **more)
        config["worker"]["slots"] = slots
        config["accounts"] = {}
        for account in self.subscriptions:
            env_file = self.bench.path / host / f"{account}.env"
            env_file.write_text(f"CLAUDE_CODE_OAUTH_TOKEN={token_of(account)}\n")
            env_file.chmod(0o600)
            config["accounts"][account] = {"env_file": str(env_file), **(rules or {}).get(account, {})}
        claude = config["executors"]["claude"]
        del claude["account"]
        claude["accounts"] = list(self.subscriptions)
        return config

    @property
    def runs(self) -> dict[str, int]:
        """Requests of tasks, by account."""
        return {account: one.runs for account, one in self.subscriptions.items()}


def token_of(account: str) -> str:
    return f"sk-ant-oat01-{account}"


def account_of(request: Request) -> str:
    """Whose login a request has."""
    header = next((value for name, value in request.headers.items() if name.lower() == "authorization"), "")
    return header.removeprefix("Bearer sk-ant-oat01-")
