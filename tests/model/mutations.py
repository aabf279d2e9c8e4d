"""Every guard of the statements and triggers, and how to take it away: a text edit that the model must notice.

docs/model.md lists them; `test_mutations.py` holds the list and the page together. An edit that no longer fits its
statement is an error, not a pass.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from unittest.mock import patch

import psycopg

from turbo import sql

OF_GRAPHS = frozenset({
    "insert", "claim_and_run", "claim", "hand_edit", "record", "a_task_needs_others", "a_follow_up_comes", "settle_a_step",
    "settle_all",
    "a_need_ends", "a_conversation_goes_on", "two_at_once", "fail_over", "the_standby_catches_up", "a_stranger_comes",
    "an_older_worker_serves",
})  # fmt: skip
"""The rules of histories that look at a guard of graphs and conversations."""

OF_KEYS = frozenset({"insert", "a_limit_is_set", "claim_and_run", "claim", "record", "hand_edit", "sweep"})
"""The rules of histories that look at the places of keys."""

OF_MESSAGES = frozenset({
    "insert", "claim_and_run", "claim", "hand_edit", "record", "a_follow_up_comes", "a_task_needs_others", "settle_a_step",
    "settle_all", "sweep", "the_same_id_once_more", "two_at_once", "fail_over", "the_standby_catches_up", "crash",
    "tell", "read_messages", "write_down", "a_message_comes", "a_message_is_written_for_long",
    "a_message_meets_another_statement", "a_failover_loses_a_message",
})  # fmt: skip
"""The rules of histories that look at a guard of messages."""

PLACING = frozenset({"its_conversation_can_be_had_anywhere", "a_run_asks", "claim_and_run", "claim"})
"""The rules of histories that look at where a task may run."""

_SPACE = re.compile(r"\s+")


@dataclass(frozen=True)
class Mutation:
    """`where`: a statement of turbo/sql, a function of the triggers (`turbo_…`), or "index". `edits`: what is written
    instead of what; white space does not count. `rules`: those of histories that look at it; None: all."""

    guard: str
    where: str
    edits: tuple[tuple[str, str], ...]
    rules: frozenset[str] | None = None

    @property
    def name(self) -> str:
        return _SPACE.sub("-", self.guard.replace("`", "").replace("'", ""))


def edited(text: str, edits: tuple[tuple[str, str], ...]) -> str:
    text = _SPACE.sub(" ", text)
    for old, new in edits:
        old = _SPACE.sub(" ", old)
        assert text.count(old) == 1, f"{old!r} is {text.count(old)} times in the statement: mend the mutation"
        text = text.replace(old, new)
    return text


@contextmanager
def applied(mutation: Mutation, db: "psycopg.Connection[object]") -> Iterator[None]:
    """With the guard gone, in the database `db` and in what turbo/db/claim_store.py sends."""
    if mutation.where == "index":
        for statement, _ in mutation.edits:
            db.execute(statement)
        yield
    elif mutation.where.startswith("turbo_"):
        row = db.execute("select pg_get_functiondef(%s::regproc)", [f"public.{mutation.where}"]).fetchone()
        text = next(iter(row.values())) if isinstance(row, dict) else row[0]  # type: ignore[index]
        text = re.sub(r"--[^\n]*", "", text)
        db.execute(edited(text, mutation.edits))
        yield
    else:

        def statement(name: str, variant: sql.Variant | None = None) -> str:
            text = sql.statement(name, variant)
            return edited(text, mutation.edits) if name == mutation.where and variant is None else text

        statement(mutation.where)
        with patch("turbo.db.store.statement", statement):
            yield


_LEAST = "-9223372036854775807"
_SINCE = f"abs(greatest(c.current_token, {_LEAST})) < c.token"
_KNOWN_CLAIM = """and not coalesce((select true from public.agent_actions a
 where a.task_id = i.task_id and a.fencing_token = i.token limit 1), false)"""
_REASSERT_AGE = f"""and (t.fencing_token = i.token or (t.fencing_token is null or abs(greatest(t.fencing_token, {_LEAST})) < i.token)
 {_KNOWN_CLAIM})"""
_ASK_FENCE = f"""and (c.current_token = i.token and c.was in ('running', 'pending', 'scheduled')
 or c.was in ('pending', 'scheduled', 'waiting', 'blocked')
 and (c.current_token is null or abs(greatest(c.current_token, {_LEAST})) < i.token)
 and not coalesce((select true from public.agent_actions a
 where a.task_id = c.task_id and a.fencing_token = i.token limit 1), false))"""
_BUSY_KEY = """and (t.concurrency_key is null or (not exists (select from public.agent_tasks r where r.status = 'running'
 and r.concurrency_key = t.concurrency_key) ) and public.turbo_take_key(t.concurrency_key::text))"""
_REQUESTED = """case when t.cancel_requested_at is null then 'pending'
 else public.turbo_stopped_status(t.cancel_to::text, t.run_after::timestamptz) end"""

_OFF_BEAT = (
    "not between clock_timestamp() - make_interval(secs => w.heartbeat_seconds * 1.5)"
    " and clock_timestamp() + make_interval(secs => w.heartbeat_seconds * 1.5)"
)
MUTATIONS = (
    # ── claiming
    Mutation(
        "one running task on each place of a key: the unique index",
        "index",
        (("drop index agent_tasks_one_running_per_place", ""),),
    ),
    Mutation("a claim looks for a running sibling of its key", "tasks/claim", ((_BUSY_KEY, ""),)),
    Mutation(
        "one task of a key in a batch",
        "tasks/claim",
        (
            (
                "where c.concurrency_key is null and c.conversation is null or not exists (select from candidates b",
                "where true or not exists (select from candidates b",
            ),
        ),
    ),
    Mutation(
        "a run that is over gives up its place",
        "turbo_wake_change",
        (("old.status = 'running' and new.key_slot is not null", "false"),),
        rules=OF_KEYS,
    ),
    Mutation(
        "a claim skips rows that another session has locked", "tasks/claim", (("for update of t skip locked", ""),)
    ),
    Mutation(
        "a worker that is marked dead does not claim",
        "tasks/claim",
        (("and (select w.state from public.agent_workers w where w.worker_id = %(worker)s) = 'up'", ""),),
    ),
    Mutation(
        "a paused queue is not claimed from",
        "tasks/claim",
        (("and not exists (select from public.agent_queues p where p.queue = %(queue)s and p.paused)", ""),),
    ),
    Mutation(
        "the highest priority is claimed first",
        "tasks/claim",
        (("order by t.task_priority desc nulls last,", "order by"),),
    ),
    Mutation(
        "tokens grow per row, even if the sequence does not",
        "tasks/claim",
        (
            (
                f"greatest(nextval('public.turbo_fence_seq'),"
                f" least(abs(greatest(coalesce(t.fencing_token, 0), {_LEAST})) >> 20, 8796093022206) + 1)",
                "nextval('public.turbo_fence_seq')",
            ),
        ),
    ),
    Mutation("tokens end in random bits", "tasks/claim", (("floor(random() * 1048576)::bigint", "0"),)),
    # ── results
    Mutation("a result must carry the row's token", "tasks/finish", (("c.current_token = c.token and", ""),)),
    Mutation(
        "a recorded result consumes its token",
        "tasks/finish",
        (("fencing_token = - d.token,", "fencing_token = d.token,"),),
    ),
    Mutation("a late success is accepted only if the task was not claimed since", "tasks/finish", ((_SINCE, "true"),)),
    Mutation(
        "a late success of a rescued run is accepted",
        "tasks/finish",
        (
            (
                "or c.outcome = 'succeeded' and (c.was in ('pending', 'scheduled') or c.was = 'failed' and c.had_kind = 'poison')",
                "",
            ),
        ),
    ),
    Mutation(
        "a late failure changes nothing",
        "tasks/finish",
        (
            (
                "or c.outcome = 'succeeded' and (c.was in ('pending', 'scheduled') or c.was",
                "or (c.was in ('pending', 'scheduled') or c.was",
            ),
        ),
    ),
    Mutation(
        "a replay is distinguished from a late result",
        "tasks/finish",
        (
            ("and a.action_type in ('edited', 'finished', 'asked', 'late')", "and a.action_type in ('never')"),
            ("d.current_token = - d.token)", "false)"),
        ),
    ),
    Mutation(
        "the only copy of an output is kept in the audit trail",
        "tasks/finish",
        (
            (
                "in ('edited', 'finished', 'asked', 'late')",
                "in ('finished', 'asked', 'late')",
            ),
        ),
    ),
    Mutation(
        "a requested status overrides a failure", "tasks/finish", (("when c.stopping and not", "when false and not"),)
    ),
    Mutation(
        "a cancel does not discard finished work",
        "tasks/finish",
        (("and not (c.outcome = 'succeeded' and c.requested in ('cancelled', 'completed'))", ""),),
    ),
    Mutation("retries are counted and capped", "tasks/finish", (("and c.retry_count < c.max_retries", ""),)),
    Mutation(
        "infrastructure outcomes are capped",
        "tasks/finish",
        (("c.infra_count + 1 >= %(infra_cap)s", "c.infra_count + %(infra_cap)s < 0"),),
    ),
    Mutation("a reschedule by hand does not count as an attempt", "tasks/finish", (("and not d.stopping", ""),)),
    Mutation(
        "a result keeps the time that a person set",
        "tasks/finish",
        (("when d.stopping and d.becomes = 'scheduled' then t.run_after", "when false then t.run_after"),),
    ),
    Mutation(
        "a result of a deleted row does not count for a new row with its id",
        "tasks/finish",
        (
            (
                "and not coalesce((select true from public.agent_actions a where a.task_id = c.task_id"
                " and a.fencing_token = c.token limit 1), false)",
                "",
            ),
        ),
    ),
    # ── questions
    Mutation("a question must carry the row's token", "tasks/ask", ((_ASK_FENCE, "and c.task_id is not null"),)),
    Mutation(
        "a recorded question consumes its token",
        "tasks/ask",
        (("fencing_token = - d.token,", "fencing_token = d.token,"),),
    ),
    Mutation(
        "a question of a rescued run is accepted",
        "tasks/ask",
        (("and c.was in ('running', 'pending', 'scheduled')", "and c.was = 'running'"),),
    ),
    Mutation(
        "a requested status is stronger than a question",
        "tasks/ask",
        (
            (
                "when c.stopping then public.turbo_stopped_status(c.requested::text, c.run_after::timestamptz) when",
                "when",
            ),
        ),
    ),
    Mutation(
        "a question pins its task to the host that asked",
        "tasks/ask",
        (("then t.prefer_host else %(host)s end", "then t.prefer_host else 'elsewhere' end"),),
    ),
    Mutation(
        "a pinned task is claimed by its host only",
        "tasks/claim",
        (("t.requires::jsonb, t.prefer_host::text", "t.requires::jsonb, null::text"),),
    ),
    Mutation(
        "a worker has the labels that a task requires",
        "tasks/claim",
        (("t.requires::jsonb, t.prefer_host::text", "null::jsonb, t.prefer_host::text"),),
    ),
    Mutation(
        "a task that waits for its host is left to it for a while",
        "turbo_may_run",
        (("or run_after operator(pg_catalog.<=)", "or run_after is not null or run_after operator(pg_catalog.<=)"),),
        PLACING,
    ),
    Mutation(
        "an answer is taken by a task that waits only",
        "turbo_judge_update",
        (("if was is distinct from 'waiting' or old.question is null then", "if old.question is null then"),),
    ),
    Mutation(
        "a result keeps the question and its answer",
        "tasks/finish",
        (
            (
                "cancel_requested_at = null, cancel_to = null,",
                "cancel_requested_at = null, cancel_to = null, answer = null,",
            ),
        ),
    ),
    Mutation(
        "a release keeps the answer",
        "tasks/release",
        (
            (
                "cancel_requested_at = null, cancel_to = null,",
                "cancel_requested_at = null, cancel_to = null, answer = null,",
            ),
        ),
    ),
    Mutation(
        "only a question without an answer expires",
        "tasks/expire",
        (
            (
                "where t.status = 'waiting' and t.queue = q.queue and t.run_after <= statement_timestamp() and t.question",
                "where t.status in ('waiting', 'pending') and t.queue = q.queue and t.run_after <= statement_timestamp()"
                " and t.question",
            ),
        ),
    ),
    Mutation(
        "only a question whose time is over expires",
        "tasks/expire",
        (
            (
                "where t.status = 'waiting' and t.queue = q.queue and t.run_after <= statement_timestamp() and t.question",
                "where t.status = 'waiting' and t.queue = q.queue and t.question",
            ),
        ),
    ),
    Mutation(
        "a run is taken back with the answer that it was given",
        "tasks/reassert",
        (("when (t.question ->> 'number')::int = i.number then i.answer end", "end"),),
    ),
    Mutation(
        "a released hold gives back what was asked before",
        "turbo_take_answer",
        (
            (
                "new.question := old.question -> 'held'; new.answer := old.question ->> 'held_answer';",
                "new.question := null; new.answer := null;",
            ),
        ),
    ),
    # ── giving back
    Mutation(
        "a release consumes the token",
        "tasks/release",
        (("fencing_token = - t.fencing_token", "fencing_token = t.fencing_token"),),
    ),
    Mutation(
        "a release must carry the row's token",
        "tasks/release",
        (("and t.fencing_token = i.token and t.status = 'running' order by", "and t.status = 'running' order by"),),
    ),
    Mutation(
        "a release applies the requested status",
        "tasks/release",
        (("then public.turbo_stopped_status(t.cancel_to::text, t.run_after::timestamptz)", "then 'pending'"),),
    ),
    Mutation(
        "a release keeps the time that a person set",
        "tasks/release",
        (
            (
                "turbo_stopped_status(t.cancel_to::text, t.run_after::timestamptz)",
                "turbo_stopped_status(t.cancel_to::text, null::timestamptz)",
            ),
            ("else greatest(clock_timestamp(), t.run_after) end", "else clock_timestamp() end"),
        ),
    ),
    # ── leases
    Mutation(
        "only tasks of dead workers are rescued",
        "tasks/rescue",
        (("and t.assigned_worker_id in (select w.worker_id from public.agent_workers w where w.state = 'dead')", ""),),
    ),
    Mutation(
        "a rescue keeps the token",
        "tasks/rescue",
        (("infra_count = d.count,", "infra_count = d.count, fencing_token = - t.fencing_token,"),),
    ),
    Mutation("rescues are capped", "tasks/rescue", (("l.count >= %(infra_cap)s", "l.count + %(infra_cap)s < 0"),)),
    Mutation(
        "a rescue applies the requested status",
        "tasks/rescue",
        (("when l.stopping then public.turbo_stopped_status(l.requested::text, 'infinity'::timestamptz)", ""),),
    ),
    Mutation(
        "a rescue keeps the time that a person set",
        "tasks/rescue",
        (("case when d.stopping then t.run_after end", "null"),),
    ),
    Mutation("a beat resets the count of silence", "workers/beat", (("silent_beats = 0, counted_at = null,", ""),)),
    Mutation(
        "silence is counted once per interval, however many workers count",
        "workers/beat",
        (
            (
                "and (w.counted_at is null or w.counted_at not between"
                " clock_timestamp() - make_interval(secs => w.heartbeat_seconds * 0.9) and clock_timestamp())",
                "",
            ),
        ),
    ),
    Mutation(
        "only a worker that misses a beat is counted",
        "workers/beat",
        (
            (
                f"and w.heartbeat_at {_OFF_BEAT} and (w.counted_at",
                "and (w.counted_at",
            ),
            (
                f"where w.worker_id = s.worker_id and w.heartbeat_at {_OFF_BEAT}",
                "where w.worker_id = s.worker_id",
            ),
        ),
    ),
    Mutation("a host marks only its own workers dead", "workers/mark_dead", (("where w.host = %(host)s", ""),)),
    Mutation(
        "only a task that its worker does not know is an orphan",
        "tasks/reconcile",
        (
            (
                "and not exists (select from known k where k.task_id = t.task_id and k.token = t.fencing_token) order by",
                "order by",
            ),
        ),
    ),
    Mutation(
        "an orphan keeps the token",
        "tasks/reconcile",
        (
            (
                "assigned_worker_id = null, started_at = null,",
                "assigned_worker_id = null, started_at = null, fencing_token = - t.fencing_token,",
            ),
            ("returning t.task_id, t.fencing_token as token,", "returning t.task_id, - t.fencing_token as token,"),
        ),
    ),
    Mutation(
        "orphans are released",
        "tasks/reconcile",
        (
            (
                "where t.task_id = f.task_id and t.fencing_token = f.fencing_token and t.status = 'running'",
                "where false",
            ),
        ),
    ),
    Mutation("an orphan gets the requested status", "tasks/reconcile", ((_REQUESTED, "'pending'"),)),
    Mutation(
        "an orphan keeps the time that a person set",
        "tasks/reconcile",
        (
            (
                "else public.turbo_stopped_status(t.cancel_to::text, t.run_after::timestamptz)",
                "else public.turbo_stopped_status(t.cancel_to::text, null::timestamptz)",
            ),
            ("else greatest(clock_timestamp(), t.run_after) end", "else clock_timestamp() end"),
        ),
    ),
    Mutation(
        "a claim of a deleted row is not taken back",
        "tasks/reassert",
        ((_KNOWN_CLAIM, ""),),
    ),
    Mutation(
        "a claim is taken back from older tokens only",
        "tasks/reassert",
        ((_REASSERT_AGE, ""),),
    ),
    Mutation(
        "a consumed claim is not taken back",
        "tasks/reassert",
        (
            (f"{_LEAST})) < i.token)", f"{_LEAST})) <= i.token)"),
            (_KNOWN_CLAIM, ""),
        ),
    ),
    Mutation(
        "only a waiting task is taken back",
        "tasks/reassert",
        (("where t.status in ('pending', 'scheduled', 'waiting', 'blocked')", "where true"),),
    ),
    Mutation(
        "a lost registration gets a placeholder",
        "workers/prune",
        (("where t.status = 'running' and t.fencing_token > 0", "where false"),),
    ),
    Mutation("a placeholder registration is replaced by its worker", "workers/beat", (("and pid <> 0", ""),)),
    # ── graphs and conversations
    *(
        replace(one, rules=OF_GRAPHS)
        for one in (
            Mutation(
                "one running task per conversation: the unique index",
                "index",
                (
                    (
                        "drop index agent_tasks_one_running_per_conversation; "
                        "create or replace function public.turbo_take_conversation(number bigint) returns boolean return true",
                        "",
                    ),
                ),
            ),
            Mutation(
                "a claim looks for a run of its conversation",
                "turbo_take_conversation",
                (
                    (
                        "return not exists (select from public.agent_tasks r where r.status = 'running'"
                        " and r.conversation = number) and",
                        "return",
                    ),
                ),
            ),
            Mutation(
                "one task of a conversation in a batch",
                "tasks/claim",
                (("or b.conversation = c.conversation)", ")"),),
            ),
            Mutation(
                "a follow-up without a place is not claimed",
                "tasks/claim",
                (("then t.continues is null else", "then true else"),),
            ),
            Mutation(
                "a task that waits for others leaves a note",
                "turbo_note_work",
                (("insert into public.agent_unsettled (task_id) values (task::public.turbo_task_id);", ""),),
            ),
            Mutation(
                "a follow-up waits for the one before it",
                "turbo_place",
                (("coalesce(tail.place, 0) + 1, tail.task_id,", "coalesce(tail.place, 0) + 1, null,"),),
            ),
            Mutation(
                "a need is marked, so that its end is told",
                "settle/tie",
                (("where h.needed is not true and not h.over or", "where false or"),),
            ),
            Mutation(
                "a count falls by each need that is met",
                "settle/settle",
                (("select s.task_id, - s.met::int,", "select s.task_id, 0,"),),
            ),
            Mutation(
                "a task is let go when all its needs are met",
                "settle/settle",
                (("sum(x.n) <= 0 or", "sum(x.n) <= 1 or"),),
            ),
            Mutation(
                "a need that did not complete is not met",
                "settle/settle",
                (("::boolean) as met", "::boolean) or true as met"),),
            ),
            Mutation(
                "an edge counts once",
                "settle/settle",
                (
                    (
                        "where d.needs = any (array(select o.task_id from over o)) and not d.settled and (d.mode",
                        "where d.needs = any (array(select o.task_id from over o)) and (d.mode",
                    ),
                ),
            ),
            Mutation(
                "a task that waits for a retry is not told of a failure",
                "settle/settle",
                (
                    (
                        "and (d.mode <> 'wait' or d.needs = any (array(select o.task_id from over o where o.completed)))",
                        "",
                    ),
                ),
            ),
            Mutation(
                "a deleted need is told to those who wait",
                "turbo_forget_needs",
                (("if named = '{}' then return; end if;", "return;"),),
            ),
            Mutation(
                "a task that is retried waits again",
                "turbo_judge_update",
                (("if work then new.status := 'blocked';", "if false then new.status := 'blocked';"),),
            ),
        )
    ),
    # ── messages
    *(
        replace(one, rules=OF_MESSAGES)
        for one in (
            Mutation(
                "a message to a task that is over is refused",
                "turbo_judge_message",
                (("if task.status in ('completed', 'failed', 'cancelled') then", "if false then"),),
            ),
            Mutation(
                "a claim brings the open messages",
                "tasks/more",
                (
                    (
                        "where m.task_id = t.task_id and m.delivered_at is null and public.turbo_same_task",
                        "where false and public.turbo_same_task",
                    ),
                ),
            ),
            Mutation(
                "a run is told open messages only",
                "tasks/more",
                (("where m.task_id = t.task_id and m.delivered_at is null and", "where m.task_id = t.task_id and"),),
            ),
            Mutation(
                "what a run that lost its task has is told again",
                "messages/mark",
                (
                    (
                        "and (select t.fencing_token from public.agent_tasks t where t.task_id = m.task_id)"
                        " in (i.token, - i.token)",
                        "",
                    ),
                ),
            ),
            Mutation(
                "a mark is for the message that was told",
                "messages/mark",
                (("and sha256(convert_to(m.body, 'UTF8')) = i.digest", ""),),
            ),
            Mutation(
                "a late mark does not open what became a follow-up",
                "messages/mark",
                (("and m.message_id = i.message_id and m.delivered_at is null", "and m.message_id = i.message_id"),),
            ),
            Mutation(
                "a message of a task that completed is found",
                "turbo_tasks_left_over",
                (("t.status::text = 'completed' or", ""),),
            ),
            Mutation(
                "a message of a task that was cancelled is found",
                "turbo_tasks_left_over",
                (("or t.status::text = 'cancelled' and t.failure_kind is distinct from 'needs'", ""),),
            ),
            Mutation(
                "a poll finds a message of a task that is over",
                "turbo_messages_left_over",
                (
                    (
                        "if not exists (select from public.agent_messages m where m.delivered_at is null) then",
                        "if true then",
                    ),
                ),
            ),
            Mutation(
                "only what the last run was given counts as told",
                "turbo_left_over",
                (("and m.fencing_token in (task.token, - task.token)", ""),),
            ),
            Mutation(
                "a cancel closes messages with a line in the audit trail",
                "turbo_left_over",
                (("from closed c having count(*) > 0", "from closed c having count(*) < 0"),),
            ),
            Mutation(
                "a message and its follow-up are one transaction",
                "turbo_left_over",
                (
                    (
                        "set delivered_at = clock_timestamp(), follow_up = made where m.message_id = any (said.ids);",
                        "set delivered_at = clock_timestamp() where m.message_id = any (said.ids);",
                    ),
                ),
            ),
            Mutation(
                "a message of a deleted task is not for the next of its id",
                "turbo_same_task",
                (
                    (
                        "select task_born is null or task_born = created or abs(task_born - created) < 0.001",
                        "select true",
                    ),
                ),
            ),
        )
    ),
    # ── time
    Mutation(
        "only scheduled tasks are promoted",
        "tasks/poll",
        (
            (
                "where t.status = 'scheduled' and t.queue = q.queue and t.run_after <=",
                "where t.status in ('scheduled', 'running') and t.queue = q.queue and t.run_after <=",
            ),
        ),
    ),
    Mutation(
        "only due tasks are promoted",
        "tasks/poll",
        (
            (
                "where t.status = 'scheduled' and t.queue = q.queue and t.run_after <= statement_timestamp() order",
                "where t.status = 'scheduled' and t.queue = q.queue order",
            ),
        ),
    ),
    Mutation(
        "a task due later is scheduled at insert",
        "turbo_judge_insert",
        (("if new.status::text = 'pending' and new.run_after > now() then", "if false then"),),
    ),
    # ── hands
    Mutation(
        "a requested status waits until the agent is gone",
        "turbo_judge_update",
        (("elsif live then", "elsif false then"),),
    ),
    Mutation(
        "a hand retry consumes the token",
        "turbo_judge_update",
        (
            (
                "new.cancel_requested_at := null; new.cancel_to := null; new.fencing_token := consumed;",
                "new.cancel_requested_at := null; new.cancel_to := null;",
            ),
        ),
    ),
    Mutation(
        "closing by hand consumes the token",
        "turbo_judge_update",
        (
            (
                "then clock_timestamp() else new.completed_at end; new.fencing_token := consumed;",
                "then clock_timestamp() else new.completed_at end;",
            ),
        ),
    ),
    Mutation(
        "a hand edit is in the audit trail",
        "turbo_judge_update",
        (
            ("values (old.task_id, 'edited', true,", "select x.* from (values (old.task_id, 'edited', true,"),
            ("|| coalesce(told, '{}'));", "|| coalesce(told, '{}'))) x where false;"),
        ),
    ),
    Mutation(
        "postponing takes a task out of the claim index",
        "turbo_judge_update",
        (("if was = 'pending' and new.run_after > now() then new.status := 'scheduled'; elsif", "if"),),
    ),
    Mutation(
        "a running task is not deleted", "turbo_judge_delete", (("raise exception", "return old; raise exception"),)
    ),
    # ── the audit trail
    *(
        Mutation(
            f"the audit trail has every {what}",
            name,
            ((old, old.replace("from", "from (select) nothing cross join", 1) + " where false"),),
        )
        for what, name, old in (
            ("claim", "tasks/claim", "+ 1) from claimed c"),
            ("rescue", "tasks/rescue", "r.count) from r"),
            ("release", "tasks/release", "%(reason)s::text) from r"),
            ("promotion", "tasks/poll", "p.fencing_token from promoted p"),
            ("orphan", "tasks/reconcile", '\'{"reason": "orphan"}\' from orphan o'),
            ("reassertion", "tasks/reassert", "'answer', r.answer) end from r"),
        )
    ),
    Mutation(
        "the audit trail has every question",
        "tasks/ask",
        (("where v.verdict in ('recorded', 'late', 'gone')", "where v.verdict = 'never'"),),
    ),
    Mutation(
        "the audit trail has every result",
        "tasks/finish",
        (("where v.verdict in ('recorded', 'late', 'gone')", "where v.verdict = 'never'"),),
    ),
)

NOTICED_IN_CI = (
    "the highest priority is claimed first",
    "a recorded result consumes its token",
    "a result must carry the row's token",
    "a question must carry the row's token",
    "a pinned task is claimed by its host only",
    "a worker has the labels that a task requires",
    "only tasks of dead workers are rescued",
    "a rescue keeps the token",
    "orphans are released",
    "a requested status waits until the agent is gone",
    "the audit trail has every result",
    "a follow-up without a place is not claimed",
    "a count falls by each need that is met",
    "a task is let go when all its needs are met",
    "a message of a task that completed is found",
    "a claim brings the open messages",
)
