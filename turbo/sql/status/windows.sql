-- Status: how much of the windows of accounts is used. A window that was reset since has nothing used. At most `limit` rows, the
-- fullest first: whoever may write here may invent accounts. resets_in_seconds: null if it is not known, or past.
select w.account, w.time_window, w.model, w.status, w.resets_at, w.observed_at,
       case when w.resets_at <= clock_timestamp() then 0 else w.utilization end as utilization,
       case when w.resets_at > clock_timestamp()
         then extract(epoch from w.resets_at)::float8 - extract(epoch from clock_timestamp())::float8 end as resets_in_seconds
  from public.agent_account_windows w
 order by utilization desc nulls last, w.account, w.time_window, w.model
 limit %(limit)s
