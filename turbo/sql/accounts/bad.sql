-- The prober reports a bad account, or could not tell (the service is away). The account closes for a backoff that
-- doubles from `first` to `last` seconds, and is then half open again.
-- Only the worker that holds the probe may report. A usage limit that could not be probed stays a usage limit.
update public.agent_accounts
   set state = 'paused', reason = coalesce(reason, 'auth'), why = %(why)s, trips = trips + 1,
       until = clock_timestamp() + make_interval(secs => %(jitter)s
                 * least(%(last)s::float8, %(first)s::float8 * 2 ^ least(trips, 30))),
       probe_by = null, probe_since = null, probe_until = null, changed_at = clock_timestamp()
 where account = %(account)s and host = %(host)s and probe_by = %(worker)s and state in ('suspect', 'half_open')
returning extract(epoch from until - clock_timestamp())::float8
