-- The prober reports a bad account, or could not tell. The account closes for a backoff that doubles from `first` to `last`
-- seconds, and is then half open again. Only the worker that holds the probe may report.
-- `unavailable`: its service is away, which says nothing about the login. A reason that is known stays: a usage limit that
-- could not be probed stays a usage limit. A change from one cause to the other begins the backoff anew.
with mine as (
  select a.account, a.host,
         case when a.reason is null and a.unavailable is distinct from %(unavailable)s::boolean then 0 else a.trips end as trips
    from public.agent_accounts a
   where a.account = %(account)s and a.host = %(host)s and a.probe_by = %(worker)s and a.state in ('suspect', 'half_open')
     for update
)
update public.agent_accounts a
   set state = 'paused', reason = coalesce(a.reason, case when not %(unavailable)s::boolean then 'auth' end),
       unavailable = a.reason is null and %(unavailable)s::boolean, why = %(why)s, trips = mine.trips + 1,
       until = clock_timestamp() + make_interval(secs => %(jitter)s
                 * least(%(last)s::float8, %(first)s::float8 * 2 ^ least(mine.trips, 30))),
       probe_by = null, probe_since = null, probe_until = null, changed_at = clock_timestamp()
  from mine
 where a.account = mine.account and a.host = mine.host
returning extract(epoch from a.until - clock_timestamp())::float8
