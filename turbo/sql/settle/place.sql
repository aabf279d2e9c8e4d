-- The settler's first step: gives new follow-ups their place in their conversation, and the first task of it, too. One function call, so
-- one transaction; it waits for nobody. See turbo_place_follow_ups (migrations/0016_settling.sql).
-- A row that the owner's constraint or trigger refuses stays without a place, and nothing of its conversation passes it.
-- placed: rows; remaining: rows that somebody has locked, and those behind them; last: call again from there, null: no more notes;
-- queues: to be woken.
select p.placed, p.remaining, p.last, p.queues from public.turbo_place_follow_ups(%(after)s::bigint, %(notes)s::integer) p
