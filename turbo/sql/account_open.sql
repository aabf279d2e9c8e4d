-- The probe was good: open, and the backoff starts from the beginning. Only the prober's word counts.
update public.agent_accounts
   set state = 'open', reason = null, until = null, trips = 0, why = null, probe_by = null, probe_until = null,
       changed_at = clock_timestamp()
 where account = %(account)s and host = %(host)s and probe_by = %(worker)s and state <> 'open'
