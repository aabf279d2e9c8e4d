-- Exactly one prober per account and host: whoever gets the row back. It has `lease` seconds, then others may try: the
-- prober may have been killed. Suspect: at once. Paused: half open once `until` is past (a manual pause has none, and is
-- never probed). Returns what it is now: suspect or half_open.
update public.agent_accounts a
   set probe_by = %(worker)s, probe_since = clock_timestamp(),
       probe_until = clock_timestamp() + make_interval(secs => %(lease)s),
       state = case when a.state = 'paused' then 'half_open' else a.state end, changed_at = clock_timestamp()
 where a.account = %(account)s and a.host = %(host)s
   and coalesce(a.probe_until, '-infinity') <= clock_timestamp()
   and (a.state in ('suspect', 'half_open')
        or a.state = 'paused' and a.until <= clock_timestamp())
returning a.state
