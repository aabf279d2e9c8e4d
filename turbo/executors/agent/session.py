"""Which agent a session belongs to: `agent_tasks.agent_session_id` holds the kind of agent and the agent's own id.

    0f9e5c3a-…          a session of the Claude CLI: it was the first, so its ids stand alone
    codex:0f9e5c3a-…    a thread of Codex
    acp:opencode:ses_…  a session of an agent over ACP, by the name of its profile

A session of another kind is never resumed. The task begins anew, and is told what is known of the conversation.
"""

import re
import uuid

_KIND = re.compile(r"(acp:[a-z][a-z0-9_-]{0,39}|[a-z][a-z0-9_-]{0,39}):")


def session_id(kind: str, own: str) -> str:
    """As the row holds it. `own`: the agent's."""
    return f"{kind}:{own}"


def own_id(kind: str, session: str | None) -> str | None:
    """The agent's own id, a UUID. None: no session, one of another kind, or other text, since a row may contain anything."""
    if not session or not session.startswith(f"{kind}:"):
        return None
    return as_uuid(session.removeprefix(f"{kind}:"))


def kind_of(session: str | None) -> str | None:
    """The kind of agent that has the session: '' for one without a prefix, which is Claude's. None: no session."""
    if not session:
        return None
    match = _KIND.match(session)
    return match[1] if match else ""


def as_uuid(text: str | None) -> str | None:
    try:
        return str(uuid.UUID(text)) if text else None
    except ValueError:
        return None
