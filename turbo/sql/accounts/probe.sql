-- Takes the probe: one prober per account and host, the worker that gets the row back. It has `lease` seconds; then others
-- may take it, because the prober may have been killed.
-- A suspect account is probed at once. A paused one becomes half open when `until` has passed; a manual pause has no
-- `until` and is never probed. A row that was changed in the future is from before the database's clock was set back: its
-- times mean nothing, and one probe too early does no harm. Returns the state now, suspect or half_open, and whether it is
-- closed because its service is away.
update public.agent_accounts a
   set probe_by = %(worker)s, probe_since = clock_timestamp(),
       probe_until = clock_timestamp() + make_interval(secs => %(lease)s),
       state = case when a.state = 'paused' then 'half_open' else a.state end, changed_at = clock_timestamp()
 where a.account = %(account)s and a.host = %(host)s
   and (coalesce(a.probe_until, '-infinity') <= clock_timestamp() or a.changed_at > clock_timestamp() + interval '1 minute')
   and (a.state in ('suspect', 'half_open')
        or a.state = 'paused' and (a.until <= clock_timestamp()
                                   or a.until is not null and a.changed_at > clock_timestamp() + interval '1 minute'))
returning a.state, a.reason is null and a.unavailable
