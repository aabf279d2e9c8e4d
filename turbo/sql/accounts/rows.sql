-- The breakers of one account as this host sees them: its own row, and the row for all hosts ('*').
-- tasks/poll.sql returns the same facts; this is for a worker that has just written and cannot wait for the next poll.
-- cleared: has a good probe begun at or after `since`?
select a.account, a.host, a.state, a.reason,
       extract(epoch from case a.state when 'paused' then nullif(a.until, 'infinity') when 'open' then null
                              else coalesce(a.probe_until, a.changed_at + interval '10 seconds') end
               - clock_timestamp())::float8 as seconds,
       a.good_since is not null as probed, coalesce(a.good_since >= %(since)s::timestamptz, false) as cleared
  from public.agent_accounts a
 where a.account = %(account)s and a.host in (%(host)s, '*')
