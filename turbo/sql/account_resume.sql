-- Client.resume_account: open on every host, whatever paused it.
update public.agent_accounts
   set state = 'open', reason = null, until = null, trips = 0, why = null, probe_by = null, probe_until = null,
       changed_at = clock_timestamp()
 where account = %(account)s and state <> 'open'
returning host
