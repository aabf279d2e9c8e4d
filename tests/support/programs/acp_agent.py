"""An agent over ACP that does what its argument says, well or badly. It needs nothing but Python, and starts at once.

python acp_agent.py SCENARIO [DIRECTORY]      its sessions are files in DIRECTORY
"""

import json
import os
import signal
import sys
import time
import uuid
from pathlib import Path
from typing import Any

SCENARIO = sys.argv[1] if len(sys.argv) > 1 else "good"
SESSIONS = Path(sys.argv[2] if len(sys.argv) > 2 else ".")
OUT = sys.stdout
number = 1000


def send(**message: Any) -> None:
    OUT.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
    OUT.flush()


def update(session: str, what: str, **fields: Any) -> None:
    send(method="session/update", params={"sessionId": session, "update": {"sessionUpdate": what, **fields}})


def say(session: str, text: str, message: str = "m1") -> None:
    update(session, "agent_message_chunk", messageId=message, content={"type": "text", "text": text})


def done(request: Any, reason: str = "end_turn", **fields: Any) -> None:
    usage = {"inputTokens": 60, "outputTokens": 7, "cachedReadTokens": 40, "totalTokens": 107}
    send(id=request, result={"stopReason": reason, "usage": usage, **fields})


def receive() -> dict[str, Any]:
    line = sys.stdin.readline()
    if not line:
        sys.exit(0)
    message: dict[str, Any] = json.loads(line)
    with (SESSIONS / "received.jsonl").open("a") as file:
        file.write(line)
    return message


def ask(method: str, **params: Any) -> dict[str, Any]:
    """Until its answer comes, or a cancel: then that is what is returned."""
    global number
    number += 1
    send(id=number, method=method, params=params)
    while True:
        message = receive()
        if message.get("id") == number or message.get("method") == "session/cancel":
            return message


OPTIONS = [
    {"optionId": "always", "kind": "allow_always", "name": "Always"},
    {"optionId": "once", "kind": "allow_once", "name": "Once"},
    {"optionId": "no", "kind": "reject_once", "name": "No"},
]


def permission(session: str, options: Any = OPTIONS, **call: Any) -> str:
    """The option that was chosen, or `cancelled`."""
    answer = ask(
        "session/request_permission", sessionId=session, toolCall={"toolCallId": "c1", **call}, options=options
    )
    if answer.get("method") == "session/cancel":
        return "cancelled"
    outcome = answer["result"]["outcome"]
    return str(outcome.get("optionId", outcome["outcome"]))


def wait_for_cancel(request: Any) -> None:
    while receive().get("method") != "session/cancel":
        pass
    done(request, "cancelled")


def shell(session: str, request: Any, command: str) -> None:
    """A command that needs permission. Denied, the turn ends without a word, as with several agents."""
    update(session, "tool_call", toolCallId="c1", title=command, kind="execute", status="pending")
    chosen = permission(session, kind="execute", title=command, rawInput={"command": command})
    if chosen == "cancelled":
        done(request, "cancelled")
    elif chosen == "once":
        os.system(command)
        update(session, "tool_call_update", toolCallId="c1", status="completed")
        say(session, "pushed", "m2")
        done(request)
    else:
        done(request)


def write(session: str, request: Any, path: str, **call: Any) -> None:
    chosen = permission(session, kind="edit", title="write", **call)
    if chosen == "once":
        Path(path).write_text("written\n")
    say(session, f"chosen: {chosen}")
    done(request)


def prompt(request: Any, session: str, text: str) -> None:
    match SCENARIO:
        case "good":
            update(session, "agent_thought_chunk", content={"type": "text", "text": "let me see"})
            say(session, "I will look.")
            update(session, "tool_call", toolCallId="c1", title="ls", kind="execute", status="pending")
            update(session, "tool_call_update", toolCallId="c1", status="completed")
            say(session, "hello ", "m2")
            say(session, "there", "m2")
            update(session, "usage_update", used=100, size=1000, cost={"amount": 0.25, "currency": "USD"})
            done(request)
        case "refused but done":
            say(session, "Error: Authentication failed with provider x")
            send(id=request, result={"stopReason": "end_turn"})
        case "mute":
            done(request)
        case "tool alone":
            update(session, "tool_call", toolCallId="c1", title="ls", kind="execute", status="completed")
            done(request)
        case "error":
            send(id=request, error=json.loads(os.environ["ACP_ERROR"]))
        case "ids out of order":
            for stray in (request + 1, 0, -1, None, "x", 1, True, 3.5, [request]):
                send(id=stray, result={"stopReason": "refusal"})
            say(session, "hello there")
            done(request)
            done(request, "refusal")
        case "an early answer":
            say(session, "hello there")
            done(request)
        case "50 MB update":
            say(session, "x" * 50_000_000)
            say(session, "hello there", "m2")
            done(request)
        case "50 MB request":
            global number
            send(id=number, method="session/request_permission", params={"sessionId": session, "x": "x" * 50_000_000})
            answer = receive()
            say(session, f"code {answer['error']['code']}")
            done(request)
        case "update after the end":
            say(session, "hello there")
            done(request)
            say(session, "and more", "m2")
            send(id=7, method="session/request_permission", params={"sessionId": session, "options": OPTIONS})
            while True:
                receive()
        case "ignores cancel":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            (SESSIONS / "begun").touch()
            say(session, "working")
            while True:
                time.sleep(60)
        case "heeds cancel":
            (SESSIONS / "begun").touch()
            say(session, "working")
            wait_for_cancel(request)
        case "heeds cancel after hello":
            say(session, "hello there")
            if text.startswith("Count"):
                wait_for_cancel(request)
            else:
                done(request)
        case "asks and never goes on":
            (SESSIONS / "begun").touch()
            chosen = permission(session, [], kind="execute", title="rm -rf /")
            say(session, f"chosen: {chosen}")
            done(request)
        case "writes outside":
            outside = str(SESSIONS / "outside.txt")
            write(session, request, outside, locations=[{"path": outside}], rawInput={"filePath": outside})
        case "writes outside by a link":
            Path("link").symlink_to(SESSIONS)
            write(session, request, "link/outside.txt", locations=[{"path": "link/outside.txt"}])
        case "writes outside in a diff":
            outside = str(SESSIONS / "outside.txt")
            content = [{"type": "diff", "path": outside, "newText": "x"}]
            write(session, request, outside, locations=[{"path": "inside.txt"}], content=content)
        case "writes inside":
            write(session, request, "inside.txt", locations=[{"path": "inside.txt"}])
        case "writes somewhere":
            write(session, request, str(SESSIONS / "outside.txt"))
        case "gives up":
            shell(session, request, "git push")
        case "push":
            (SESSIONS / "prompts").open("a").write(json.dumps(text) + "\n")
            shell(
                session, request, f"touch {SESSIONS}/pushed-{len(list(SESSIONS.glob('pushed-*')))}; git push origin x"
            )
        case "another push":
            shell(session, request, f"touch {SESSIONS}/other; git push origin {uuid.uuid4().hex}")
        case "wants files":
            codes = []
            for method in ("fs/read_text_file", "fs/write_text_file", "terminal/create", "session/elicit", "x/y"):
                codes.append(
                    ask(method, sessionId=session, path="/etc/passwd", content="x", command="id")["error"]["code"]
                )
            say(session, str(sorted(set(codes))))
            done(request)
        case "garbage":
            for line in (
                "nonsense",
                "[]",
                "{}",
                '{"jsonrpc":',
                "null",
                '{"jsonrpc":"2.0","id":"\xff"}',
                "[" * 5000,
                '{"a":' * 900,
            ):
                OUT.write(line + "\n")
            say(session, "hello there")
            OUT.write('{"jsonrpc":"2.0","method":"session/update","params":[1]}\n')
            OUT.write('{"jsonrpc":"2.0","method":"session/update","params":{"sessionId":3,"update":7}}\n')
            done(request)
        case "another session":
            say("another", "not this")
            say(session, "hello there")
            done(request)
        case "loops":
            count = 0
            while True:
                count += 1
                say(session, "half an ans", f"m{count}")
                time.sleep(0.001)
        case "asks for ever":
            while True:
                send(id=number, method="fs/read_text_file", params={})
        case "dies":
            say(session, "working")
            sys.exit(3)
        case "silent":
            time.sleep(600)
        case reason if reason.startswith("stops: "):
            say(session, "so far")
            done(request, reason.removeprefix("stops: "))
        case _:
            say(session, "hello there")
            done(request)


def main() -> None:
    if SCENARIO == "exits":
        sys.exit("no such flag")
    if SCENARIO == "never answers":
        time.sleep(600)
    if "--version" in sys.argv:
        print("1.2.3")
        return
    while True:
        message = receive()
        request, params = message.get("id"), message.get("params") or {}
        match message.get("method"):
            case "initialize":
                if SCENARIO == "an early answer":
                    for early in (2, 3, 4):
                        done(early)
                version = 2 if SCENARIO == "another version" else 1
                able = {} if SCENARIO == "no resume" else {"loadSession": True, "sessionCapabilities": {"resume": {}}}
                about = {"name": "scripted", "version": "1.2.3"}
                send(id=request, result={"protocolVersion": version, "agentCapabilities": able, "agentInfo": about})
            case "session/new":
                if SCENARIO == "no login":
                    send(id=request, error={"code": -32000, "message": "Authentication required"})
                    continue
                session = {"no id": "", "a bad id": "a\nb"}.get(SCENARIO) if SCENARIO in ("no id", "a bad id") else None
                session = uuid.uuid4().hex if session is None else session
                if session.isalnum():
                    (SESSIONS / f"session-{session}").touch()
                modes = {
                    "currentModeId": "plan",
                    "availableModes": [{"id": "ask", "name": "Ask"}, {"id": "plan", "name": "Plan"}],
                }
                send(
                    id=request,
                    result={"sessionId": session, "models": {"currentModelId": "scripted-1"}, "modes": modes},
                )
            case "session/load" | "session/resume":
                session = params["sessionId"]
                if not (SESSIONS / f"session-{session}").exists():
                    send(id=request, error={"code": -32002, "message": "Resource not found"})
                    continue
                say(session, "replayed history")
                send(id=request, result={})
            case "session/set_mode" | "session/set_config_option" | "session/set_model":
                if {"nope", "turbo-no-such-mode"} & set(params.values()):
                    send(id=request, error={"code": -32602, "message": "Invalid params"})
                else:
                    send(id=request, result={})
            case "session/prompt":
                prompt(request, params["sessionId"], params["prompt"][0]["text"])
            case _:
                if request is not None and "method" in message:
                    send(id=request, error={"code": -32601, "message": "Method not found"})


main()
