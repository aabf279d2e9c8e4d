-- Status: the accounts that workers use, and those that are not open. At most `limit` rows, those in use first, then those that
-- are not open: whoever may write here may invent accounts. resets_in_seconds: until `until`; null if that is never. of_all:
-- how many there are.
with used as (
  select distinct account.name as account, w.host
    from public.agent_workers w cross join lateral unnest(w.accounts) account(name)
   where w.state <> 'dead'
), accounts as (
  select a.account, a.host, a.state, case when a.reason = 'manual' and a.unavailable then 'credits' else coalesce(a.reason, case when a.unavailable then 'unavailable' end) end as reason, a.why, a.until,
         (extract(epoch from nullif(a.until, 'infinity')) - extract(epoch from clock_timestamp()))::float8 as resets_in_seconds,
         coalesce(a.account in (select account from used), false) as used
    from public.agent_accounts a
   where a.state <> 'open'
  union all
  select u.account, u.host, 'open', null, null, null, null, true
    from used u
   where not exists (select from public.agent_accounts a
                      where a.account = u.account and a.host in (u.host, '*') and a.state <> 'open')
), listed as (
  select a.*, count(*) over ()::int as of_all
    from accounts a
   order by a.used desc, a.state = 'open', a.account, a.host
   limit %(limit)s
)
select l.account, l.host, l.state, l.reason, l.why, l.until, l.resets_in_seconds, l.of_all
  from listed l
 order by 1, 2
