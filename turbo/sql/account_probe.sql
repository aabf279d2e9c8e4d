-- Exactly one prober per account and host: whoever gets the row back. It holds the probe for 120 s, then others may try.
-- Suspect: at once. Paused: half open once `until` is past (a manual pause has none, and is never probed).
update public.agent_accounts a
   set probe_by = %(worker)s, probe_until = clock_timestamp() + interval '120 seconds',
       state = case when a.state = 'paused' then 'half_open' else a.state end, changed_at = clock_timestamp()
 where a.account = %(account)s and a.host = %(host)s
   and coalesce(a.probe_until, '-infinity') <= clock_timestamp()
   and (a.state in ('suspect', 'half_open')
        or a.state = 'paused' and a.until <= clock_timestamp())
returning a.trips
