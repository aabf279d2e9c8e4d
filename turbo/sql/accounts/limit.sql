-- A usage limit: closed until the reset that the service reported (`resets_at`, Unix seconds, null when it said none), as
-- this database's clock sees it: a worker whose clock is wrong must not decide. Clamped between `shortest` and `longest`,
-- for one wrong answer must not pause a fleet for a year; `jitter` seconds late, for the service's clock is another one.
-- Of several limits the last to end holds. A manual pause is stronger. new: this call closed the account.
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
   set state = 'paused', reason = 'usage_limit', why = excluded.why,
       until = case when a.state = 'paused' and a.reason = 'usage_limit' then greatest(a.until, excluded.until)
                    else excluded.until end,
       probe_by = null, probe_since = null, probe_until = null, changed_at = clock_timestamp()
 where a.reason is distinct from 'manual'
-- two first limits at once: neither saw a row, and only one inserted it (xmax = 0)
returning a.xmax = 0 or (select ends.was_open from ends) as new
