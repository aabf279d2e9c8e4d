-- The prober reports a good account: it opens. Only the worker that holds the probe may report; the report has no effect
-- after its lease, a manual pause or a manual resume.
-- good_since is when the probe began: a failure from before that moment is not the login's fault.
-- `trips` counts failures for the backoff. An executor that cannot be probed is opened as a trial, and keeps its count.
update public.agent_accounts
   set state = 'open', reason = null, unavailable = false, until = null, why = null, good_since = probe_since,
       trips = case when %(forget)s then 0 else trips end,
       probe_by = null, probe_since = null, probe_until = null, changed_at = clock_timestamp()
 where account = %(account)s and host = %(host)s and probe_by = %(worker)s and state in ('suspect', 'half_open')
returning state
