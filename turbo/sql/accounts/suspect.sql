-- A run said that its login or its CLI does not work: this account on this host takes no further task until a probe has
-- decided. A trigger on the table tells the host's other workers. Returns the moment of the suspicion: only a good probe
-- that began later clears the run's own claim. A row that is closed already stays as it is.
-- Failures that lie further back than the longest backoff (`last`) no longer lengthen the next one.
-- `fresh`: so many seconds a good probe holds; 0 for a refused login, more for what says nothing about the login.
with changed as (
  insert into public.agent_accounts as a (account, host, state, why)
  values (%(account)s, %(host)s, 'suspect', %(why)s)
  on conflict (account, host) do update
     set state = 'suspect', why = excluded.why,
         trips = case when a.good_since < clock_timestamp() - make_interval(secs => %(last)s) then 0 else a.trips end,
         probe_by = null, probe_since = null, probe_until = null, changed_at = clock_timestamp()
   where a.state = 'open'
     and (a.good_since is null or a.good_since <= clock_timestamp() - make_interval(secs => %(fresh)s))
  returning a.account
)
select clock_timestamp() from (select count(*) from changed) c
