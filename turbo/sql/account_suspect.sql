-- An agent said that it is not logged in: this account on this host takes no further task until a probe has decided.
-- A trigger on the table tells the host's other workers.
insert into public.agent_accounts as a (account, host, state, why)
values (%(account)s, %(host)s, 'suspect', %(why)s)
on conflict (account, host) do update
   set state = 'suspect', why = excluded.why, changed_at = clock_timestamp()
 where a.state = 'open'
