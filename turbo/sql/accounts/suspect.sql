-- A run reported that its login, its CLI or (`unavailable`) the service does not work: the account takes no more tasks on this host until a probe decides.
-- A trigger on the table notifies the host's other workers. A row that is already closed stays as it is.
-- Returns the time of the suspicion: only a good probe that began later clears it.
-- A failure older than the longest backoff (`last` seconds) no longer lengthens the next one.
-- `fresh`: for how many seconds a good probe holds. 0 for a refused login; more for a failure that may not be the login's.
with changed as (
  insert into public.agent_accounts as a (account, host, state, why, unavailable)
  values (%(account)s, %(host)s, 'suspect', %(why)s, %(unavailable)s)
  on conflict (account, host) do update
     set state = 'suspect', why = excluded.why, unavailable = excluded.unavailable,
         trips = case when a.good_since < clock_timestamp() - make_interval(secs => %(last)s) then 0 else a.trips end,
         probe_by = null, probe_since = null, probe_until = null, changed_at = clock_timestamp()
   where a.state = 'open'
     and (a.good_since is null
          or a.good_since not between clock_timestamp() - make_interval(secs => %(fresh)s) and clock_timestamp())
  returning a.account
)
select clock_timestamp() from (select count(*) from changed) c
