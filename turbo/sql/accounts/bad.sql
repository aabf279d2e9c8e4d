-- The prober's word: bad, or no word at all (the service is away). Closed for a backoff that doubles from `first` to `last`
-- seconds, then half open again. Only its own word counts. A usage limit that could not be probed stays one.
update public.agent_accounts
   set state = 'paused', reason = coalesce(reason, 'auth'), why = %(why)s, trips = trips + 1,
       until = clock_timestamp() + make_interval(secs => %(jitter)s
                 * least(%(last)s::float8, %(first)s::float8 * 2 ^ least(trips, 30))),
       probe_by = null, probe_since = null, probe_until = null, changed_at = clock_timestamp()
 where account = %(account)s and host = %(host)s and probe_by = %(worker)s and state in ('suspect', 'half_open')
returning extract(epoch from until - clock_timestamp())::float8
