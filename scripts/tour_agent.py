"""The scripted agent of `make tour`: speaks as the Claude CLI does, without a model, a login or a network.

    prompt ──▶ the scene whose title is in it ──▶ its steps, as lines of stream-json and rows of a session file ──▶ result
                    └── a question, or a call that needs approval: deferred; the next run resumes the session and goes on

It is run by an executor of `kind: claude`, so transcripts, questions, approvals, costs and limits come to be as with a real
agent. What it "does" is written in scripts/tour_scenes.py; only files and commits in its own worktree are real.
"""

import contextlib
import json
import os
import queue
import random
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import tour_scenes as scenes

MODEL = "scripted-1"
PACE = float(os.environ.get("TOUR_PACE", "1"))
WINDOW_SECONDS = 5 * 3600
TOKEN_USD = {"inputTokens": 3e-6, "outputTokens": 15e-6, "cacheReadInputTokens": 3e-7}


def say(**fields: Any) -> None:
    """One line of output, in the compact form of the CLI."""
    sys.stdout.write(json.dumps(fields, separators=(",", ":"), ensure_ascii=False) + "\n")
    sys.stdout.flush()


class Stdin:
    """What turbo sends, line by line, from a thread."""

    def __init__(self) -> None:
        self._lines: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._kept: list[dict[str, Any]] = []
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for line in sys.stdin:
            with contextlib.suppress(ValueError):
                self._lines.put(json.loads(line))
        self._lines.put(None)

    def next(self, kind: str, seconds: float | None = None) -> dict[str, Any] | None:
        """The next line of this type; None: stdin is closed, or nothing came in time. Other lines are kept for their turn."""
        for place, line in enumerate(self._kept):
            if line.get("type") == kind:
                return self._kept.pop(place)
        until = None if seconds is None else time.monotonic() + seconds
        while True:
            try:
                line = self._lines.get(timeout=None if until is None else max(0.0, until - time.monotonic()))
            except queue.Empty:
                return None
            if line is None:
                self._lines.put(None)
                return None
            if line.get("type") == "control_request":
                self._control(line)
            elif line.get("type") == kind:
                return line
            else:
                self._kept.append(line)

    def _control(self, line: Mapping[str, Any]) -> None:
        """turbo's own requests: all are granted."""
        able = {"hook_on_failure_supported": True, "hooks_applied": True}
        if line["request"]["subtype"] == "initialize":
            able["session_state"] = "busy" if self.carries else "idle"  # type: ignore[assignment]
        answer = {"subtype": "success", "request_id": line["request_id"], "response": able}
        say(type="control_response", response=answer)

    carries = False
    """A deferred call is carried out before anything else."""


class Session:
    """The session's file, and the rows in it."""

    def __init__(self, name: str) -> None:
        self.path = Path(name)
        if self.path.suffix != ".jsonl":
            home = Path(os.environ.get("CLAUDE_CONFIG_DIR") or Path.home() / ".claude")
            self.path = home / "projects" / "tour" / f"{name}.jsonl"
        self.id = self.path.stem
        self.rows: list[dict[str, Any]] = []
        with contextlib.suppress(FileNotFoundError):
            self.rows = [json.loads(line) for line in self.path.read_text().splitlines()]

    def of(self, key: str, default: Any) -> Any:
        """What the newest row that has it says of the tour's own state."""
        return next((row[key] for row in reversed(self.rows) if key in row), default)

    def add(self, kind: str, message: Mapping[str, Any], **state: Any) -> None:
        parent = self.rows[-1]["uuid"] if self.rows else None
        row = {"type": kind, "uuid": str(uuid.uuid4()), "parentUuid": parent, "sessionId": self.id, "message": message}
        row |= state
        self.rows.append(row)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a") as file:
            file.write(json.dumps(row) + "\n")
        if "--session-mirror" in sys.argv:
            say(type="transcript_mirror", filePath=str(self.path), entries=[row])


class Agent:
    def __init__(self, session: Session, stdin: Stdin | None) -> None:
        self._session = session
        self._stdin = stdin
        self._usage = dict.fromkeys(TOKEN_USD, 0)
        self._turns = 0

    # ── a turn ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def turn(self, prompt: str | None) -> None:
        """From a prompt, or (None) from the call that was deferred."""
        say(type="system", subtype="init", session_id=self._session.id, model=MODEL, claude_code_version="2.1.330")
        if prompt is None:
            scene, turn, step = (self._session.of(key, 0) for key in ("tourScene", "tourTurn", "tourStep"))
            steps: Sequence[scenes.Step] = scenes.steps(scene, turn)[step:]
            call = next(p for p in self._session.rows[-1]["message"]["content"] if p["type"] == "tool_use")
            self._made(call, steps[0].result, self._permitted(call))
            steps, step = steps[1:], step + 1
        else:
            before = self._session.of("tourScene", None)
            scene = before or scenes.scene_of(prompt)
            turn, step = (self._session.of("tourTurn", 0) + 1 if before else 0), 0
            self._session.add("user", {"role": "user", "content": prompt}, tourScene=scene, tourTurn=turn)
            steps = scenes.steps(scene, turn)
        for number, one in enumerate(steps, start=step):
            self._mind_messages()
            time.sleep(one.seconds * PACE * random.uniform(0.6, 1.4))
            if not self._step(one, number):
                return
        self._result("success", result=self._last)

    _last = ""

    def _step(self, step: scenes.Step, number: int) -> bool:
        """False: the turn is over."""
        match step.kind:
            case "say":
                self._last = step.text
                self._assistant([{"type": "text", "text": step.text}])
            case "write":
                path = Path(step.text)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(step.result)
                self._call("Write", {"file_path": step.text, "content": step.result}, f"wrote {step.text}", number)
            case "commit":
                git = ["git", "-c", "user.name=Agent", "-c", "user.email=agent@example.com"]
                subprocess.run([*git, "add", "-A"], check=False, capture_output=True)
                subprocess.run([*git, "commit", "-qm", step.text], check=False, capture_output=True)
                self._call("Bash", {"command": f"git commit -am '{step.text}'"}, "1 file changed", number)
            case "limit" if os.environ.get("TOUR_ACCOUNT") == "beta":
                self._windows("rejected", resets=time.time() + 600)
                text = "You've hit your session limit"
                self._assistant([{"type": "text", "text": text}], error="rate_limit", model="<synthetic>")
                self._result("success", is_error=True, result=text, api_error_status=429)
                return False
            case "break":
                text = "API Error: 400 the request was refused"
                self._assistant([{"type": "text", "text": text}], error="invalid_request", model="<synthetic>")
                self._result("error_during_execution", is_error=True, errors=[text], api_error_status=None)
                return False
            case "tool":
                return self._call(step.text, step.input or {}, step.result, number)
        return True

    def _call(self, tool: str, arguments: Mapping[str, Any], result: str, number: int) -> bool:
        call = {"type": "tool_use", "id": f"toolu_{uuid.uuid4().hex[:24]}", "name": tool, "input": dict(arguments)}
        self._assistant([call], tourStep=number)
        decision = self._permitted(call)
        if decision.get("permissionDecision") == "defer":
            deferred = {"id": call["id"], "name": tool, "input": dict(arguments)}
            self._result("success", result="", stop_reason="tool_deferred", deferred_tool_use=deferred)
            return False
        self._made(call, result, decision)
        return True

    def _permitted(self, call: Mapping[str, Any]) -> dict[str, Any]:
        """What turbo's hook says of a call."""
        held = call["name"] in ("AskUserQuestion", "Bash")
        if self._stdin is None or "--permission-prompt-tool" not in sys.argv or not held:
            return {}
        given = {"tool_name": call["name"], "tool_input": call["input"], "tool_use_id": call["id"]}
        number = str(uuid.uuid4())
        request = {"subtype": "hook_callback", "callback_id": "turbo", "input": given}
        say(type="control_request", request_id=number, request=request)
        answer = self._stdin.next("control_response")
        response = (answer or {}).get("response", {}).get("response") or {}
        return dict(response.get("hookSpecificOutput") or {})

    def _made(self, call: Mapping[str, Any], result: str, decision: Mapping[str, Any]) -> None:
        denied = decision.get("permissionDecision") == "deny"
        text = str(decision.get("permissionDecisionReason")) if denied else result
        answers = (decision.get("updatedInput") or {}).get("answers")
        if answers:
            text = f"The user has answered: {json.dumps(answers, ensure_ascii=False)}"
        block = {"type": "tool_result", "tool_use_id": call["id"], "content": text, "is_error": denied}
        message = {"role": "user", "content": [block]}
        say(type="user", message=message, session_id=self._session.id)
        self._session.add("user", message)

    def _mind_messages(self) -> None:
        """Take up what a person has said meanwhile."""
        while self._stdin is not None and (line := self._stdin.next("user", 0)) is not None:
            self.receipt(line)
            self._session.add("user", line["message"])
            self._assistant([{"type": "text", "text": "Understood, I will keep that in mind."}])

    @staticmethod
    def receipt(line: Mapping[str, Any]) -> None:
        for state in ("queued", "started"):
            say(type="command_lifecycle", command_uuid=line.get("uuid"), state=state)

    def _assistant(self, content: list[dict[str, Any]], *, model: str = MODEL, **more: Any) -> None:
        self._turns += 1
        words = len(json.dumps(content)) // 4 + 40
        used = {"inputTokens": 300 + words, "outputTokens": words, "cacheReadInputTokens": 9000}
        if model == MODEL:
            for name, tokens in used.items():
                self._usage[name] += tokens
        counts = {
            "input_tokens": used["inputTokens"],
            "output_tokens": used["outputTokens"],
            "cache_read_input_tokens": used["cacheReadInputTokens"],
        }
        number = f"msg_{uuid.uuid4().hex[:20]}"
        message = {"id": number, "role": "assistant", "model": model, "content": content, "usage": counts}
        error = {"error": more.pop("error")} if "error" in more else {}
        say(type="assistant", message=message, session_id=self._session.id, parent_tool_use_id=None, **error)
        self._session.add("assistant", message, **more)

    def _windows(self, status: str, resets: float | None = None) -> None:
        """What the service says of the account: it fills as the hours pass."""
        begun = time.time() % WINDOW_SECONDS
        ends = int(resets or time.time() + WINDOW_SECONDS - begun)
        base = 0.05 if os.environ.get("TOUR_ACCOUNT") == "beta" else 0.3
        used = 1.0 if status == "rejected" else round(base + 0.5 * begun / WINDOW_SECONDS, 3)
        week = {"utilization": round(base + 0.2, 3), "resetsAt": ends + 3 * 86400, "status": "allowed"}
        windows = {"five_hour": {"utilization": used, "resetsAt": ends, "status": status}, "seven_day": week}
        info = {"status": status, "rateLimitType": "five_hour", "resetsAt": ends, "unifiedWindows": windows}
        say(type="rate_limit_event", rate_limit_info=info)

    def _result(self, subtype: str, *, is_error: bool = False, stop_reason: str = "end_turn", **more: Any) -> None:
        if not is_error:
            self._windows("allowed")
        cost = sum(tokens * TOKEN_USD[name] for name, tokens in self._usage.items())
        used: dict[str, float] = {**self._usage, "costUSD": round(cost, 6)}
        say(
            type="result",
            subtype=subtype,
            is_error=is_error,
            stop_reason=stop_reason,
            num_turns=self._turns,
            session_id=self._session.id,
            total_cost_usd=used["costUSD"],
            model_usage_since_last_result={MODEL: used},
            **more,
        )
        self._usage = dict.fromkeys(TOKEN_USD, 0)


def option(name: str) -> str | None:
    return sys.argv[sys.argv.index(name) + 1] if name in sys.argv else None


def main() -> int:
    if "--version" in sys.argv:
        print("2.1.330 (scripted)")
        return 0
    if sys.argv[-2:] == ["auth", "status"]:
        return 0
    resumed = option("--resume")
    session = Session(resumed or option("--session-id") or str(uuid.uuid4()))
    if resumed and not session.rows:
        print(f"No conversation found with session ID: {resumed}", file=sys.stderr)
        return 1
    if "--input-format" not in sys.argv:
        Agent(session, None).turn(sys.stdin.read())
        return 0
    deferred = bool(resumed) and scenes.asks(session.rows[-1]) and not os.environ.get(scenes.NO_DEFERRED)
    stdin = Stdin()
    stdin.carries = deferred
    agent = Agent(session, stdin)
    if deferred:
        agent.turn(None)
    while (line := stdin.next("user")) is not None:
        agent.receipt(line)
        agent.turn(line["message"]["content"])
    return 0


if __name__ == "__main__":
    sys.exit(main())
