-- This host cannot probe the account after all, because its own login is dead. Another host's worker may take the probe now.
update public.agent_accounts
   set probe_by = null, probe_since = null, probe_until = null, changed_at = clock_timestamp()
 where account = %(account)s and host = %(host)s and probe_by = %(worker)s and state in ('suspect', 'half_open')
