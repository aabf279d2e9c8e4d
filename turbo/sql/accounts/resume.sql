-- Client.resume_account: opens the account on every host at once, whatever closed it. A running probe no longer decides.
update public.agent_accounts
   set state = 'open', reason = null, unavailable = false, until = null, trips = 0, why = null,
       probe_by = null, probe_since = null, probe_until = null, good_since = null, changed_at = clock_timestamp()
 where account = %(account)s and state <> 'open'
returning host
