-- Status: the accounts that workers use, and those that are not open. resets_in_seconds: until `until`;
-- null if that is never.
select a.account, a.host, a.state, coalesce(a.reason, case when a.unavailable then 'unavailable' end) as reason, a.why, a.until,
       (extract(epoch from nullif(a.until, 'infinity')) - extract(epoch from clock_timestamp()))::float8 as resets_in_seconds
  from public.agent_accounts a
 where a.state <> 'open'
union all
select u.account, u.host, 'open', null, null, null, null
  from (select distinct account.name as account, w.host
          from public.agent_workers w cross join lateral unnest(w.accounts) account(name)
         where w.state <> 'dead') u
 where not exists (select from public.agent_accounts a
                    where a.account = u.account and a.host in (u.host, '*') and a.state <> 'open')
 order by 1, 2
