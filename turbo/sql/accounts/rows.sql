-- The breakers of one account as this host sees them: its own row, and the row for all hosts ('*').
-- tasks/poll.sql returns the same facts; this is for a worker that has just written and cannot wait for the next poll.
-- cleared: has a good probe begun at or after `since`? A row changed in the future: see accounts/probe.sql.
select a.account, a.host, a.state,
       case when a.state <> 'open' then case when a.reason = 'manual' and a.unavailable then 'credits' else coalesce(a.reason, case when a.unavailable then 'unavailable' end) end end as reason,
       case when a.state = 'open' or a.state = 'paused' and not coalesce(isfinite(a.until), false) then null
            when a.changed_at > clock_timestamp() + interval '1 minute' then 0
            else least(greatest(extract(epoch from case a.state when 'paused' then a.until
                                                                else coalesce(a.probe_until, a.changed_at + interval '10 seconds') end)
                                    - extract(epoch from clock_timestamp()), -1e9), 1e9) end::float8 as seconds,
       a.good_since is not null as probed,
       coalesce(a.good_since between %(since)s::timestamptz and clock_timestamp(), false) as cleared
  from public.agent_accounts a
 where a.account = %(account)s and a.host in (%(host)s, '*')
