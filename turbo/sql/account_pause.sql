-- Trip the breaker until `seconds` from now (null: until somebody resumes it by hand). host '*' pauses every host: usage
-- limits and manual pauses. A manual pause is stronger than the others; a later end is stronger than an earlier one.
insert into public.agent_accounts as a (account, host, state, reason, until, why, trips)
values (%(account)s, %(host)s, 'paused', %(reason)s, clock_timestamp() + make_interval(secs => %(seconds)s::float8), %(why)s, 1)
on conflict (account, host) do update
   set state = 'paused', reason = excluded.reason, until = excluded.until, why = excluded.why, trips = a.trips + 1,
       probe_by = null, probe_until = null, changed_at = clock_timestamp()
 where a.reason is distinct from 'manual' or excluded.reason = 'manual'
returning (a.trips = 1 or a.changed_at < clock_timestamp() - interval '1 second') as new
