-- A usage limit: the account closes until the reset that the service reported (`resets_at`, Unix seconds; null if unknown).
-- The database's clock decides, because a worker's clock may be wrong. The wait is clamped between `shortest` and
-- `longest`: one wrong answer must not pause a fleet for a year. `jitter` seconds are added, for the service's clock differs.
-- Of several limits the latest end wins. A manual pause overrides a limit. new: this call closed the account.
with was as materialized (
  select a.state, a.reason from public.agent_accounts a
   where a.account = %(account)s and a.host = %(host)s
     for update
), ends as materialized (
  select clock_timestamp() + make_interval(secs => %(jitter)s
           + case when %(resets_at)s::float8 is null then %(unknown)s
                  else least(greatest(%(resets_at)s::float8 - extract(epoch from clock_timestamp())::float8,
                                      %(shortest)s), %(longest)s) end) as at,
         exists (select from was where was.state = 'open' or was.reason is distinct from 'usage_limit') as was_open
)
insert into public.agent_accounts as a (account, host, state, reason, until, why)
select %(account)s, %(host)s, 'paused', 'usage_limit', ends.at, %(why)s from ends
on conflict (account, host) do update
   set state = 'paused', reason = 'usage_limit', unavailable = false, why = excluded.why,
       until = case when a.state = 'paused' and a.reason = 'usage_limit' and a.changed_at <= clock_timestamp() + interval '1 minute'
                    then greatest(a.until, excluded.until)
                    else excluded.until end,
       probe_by = null, probe_since = null, probe_until = null, changed_at = clock_timestamp()
 where a.reason is distinct from 'manual'
-- two first limits at once: neither saw a row, and only one of them inserted it (xmax = 0)
returning a.xmax = 0 or (select ends.was_open from ends) as new
