-- The windows of some accounts, as agents anywhere have reported them last. Read by a worker before it chooses an account, at most
-- every few seconds. resets_in and age: seconds by the database's clock, so that no host's clock matters; age: since the report.
-- At most `most` rows: whoever may write here may invent windows.
select w.account, w.time_window, w.model, w.utilization, w.status,
       (extract(epoch from w.resets_at) - extract(epoch from clock_timestamp()))::float8 as resets_in,
       greatest(0, extract(epoch from clock_timestamp()) - extract(epoch from w.observed_at))::float8 as age
  from public.agent_account_windows w
 where w.account = any (%(accounts)s::text[])
 order by w.observed_at desc
 limit %(most)s
