-- Client.pause_account: closes the account on every host until a person resumes it. Nothing else opens or probes it.
insert into public.agent_accounts as a (account, host, state, reason, why)
values (%(account)s, '*', 'paused', 'manual', %(why)s)
on conflict (account, host) do update
   set state = 'paused', reason = 'manual', unavailable = false, until = null, why = excluded.why,
       probe_by = null, probe_since = null, probe_until = null, changed_at = clock_timestamp()
