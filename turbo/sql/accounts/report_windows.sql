-- A worker's agents have reported windows of accounts: their rows get the new figures. One statement for all that changed, sent at
-- most every few seconds. It waits for no lock of a row: one that another transaction holds keeps its figures until the next report.
-- Figures are bounded here as well: a reset lies within `longest` seconds, by the database's clock. The latest report counts.
with reported as materialized (
  select r.account, r.time_window, r.model, r.status,
         case when r.utilization is not null then least(greatest(r.utilization, 0), 1) end as utilization,
         case when r.resets_in is not null
           then clock_timestamp() + make_interval(secs => least(r.resets_in, %(longest)s::float8)) end as resets_at
    from json_to_recordset(%(windows)s::json)
         as r(account text, time_window text, model text, utilization float8, resets_in float8, status text)
), held as materialized (
  select w.account, w.time_window, w.model
    from public.agent_account_windows w
   where (w.account, w.time_window, w.model) in (select r.account, r.time_window, r.model from reported r)
     for update skip locked
), renewed as (
  update public.agent_account_windows w
     set utilization = r.utilization, resets_at = r.resets_at, status = r.status, observed_at = clock_timestamp()
    from reported r
    join held h using (account, time_window, model)
   where (w.account, w.time_window, w.model) = (r.account, r.time_window, r.model)
)
insert into public.agent_account_windows (account, time_window, model, utilization, resets_at, status)
select r.account, r.time_window, r.model, r.utilization, r.resets_at, r.status
  from reported r
 where not exists (select from public.agent_account_windows w
                    where (w.account, w.time_window, w.model) = (r.account, r.time_window, r.model))
 order by r.account, r.time_window, r.model
on conflict do nothing
