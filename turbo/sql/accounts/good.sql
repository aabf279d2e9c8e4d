-- The prober's word: good, so open. Only its own word counts: not after its lease, a manual pause, a resume by hand.
-- good_since is when the probe began: what failed before that was not the login's fault. `trips` remembers failures for
-- the backoff; an executor that cannot be probed is opened to be tried out, and keeps them.
update public.agent_accounts
   set state = 'open', reason = null, until = null, why = null, good_since = probe_since,
       trips = case when %(forget)s then 0 else trips end,
       probe_by = null, probe_since = null, probe_until = null, changed_at = clock_timestamp()
 where account = %(account)s and host = %(host)s and probe_by = %(worker)s and state in ('suspect', 'half_open')
returning state
