-- An account's service wants credits that are not there: it is paused until a person acts, by `turbo resume` for example. No probe
-- opens it: credits that somebody buys are that person's decision. The reason is manual, with the flag `unavailable`; every statement
-- that pauses or opens an account otherwise takes the flag back. A pause by hand stays one. new: this call closed the account.
insert into public.agent_accounts as a (account, host, state, reason, unavailable, why)
values (%(account)s, %(host)s, 'paused', 'manual', true, %(why)s)
on conflict (account, host) do update
   set state = 'paused', reason = 'manual', unavailable = true, until = null, why = excluded.why,
       probe_by = null, probe_since = null, probe_until = null, changed_at = clock_timestamp()
 where a.reason is distinct from 'manual'
returning true as new
