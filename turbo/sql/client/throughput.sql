-- Client.throughput: what ended in the last `seconds`, by interval of `bucket` seconds on the database's clock, and how long it had waited
-- for its start. Reads the newest `most` tasks, by the index on completed_at: costs what ended in that time, and no more than that many.
-- oldest: the end of the oldest task that was read; cut: there are more. Always returns at least one row, for `now`.
with ended as materialized (
  select t.status::text as status, t.completed_at::timestamptz as at,
         extract(epoch from t.started_at::timestamptz) - extract(epoch from t.run_after::timestamptz) as waited
    from public.agent_tasks t
   where t.status in ('completed', 'failed', 'cancelled')
     and t.completed_at > statement_timestamp() - make_interval(secs => %(seconds)s::float8)
     and t.completed_at < statement_timestamp() + interval '1 day'  -- a person may have written any moment
   order by t.completed_at desc
   limit %(most)s
), summed as (
  select floor(extract(epoch from e.at) / %(bucket)s::float8)::bigint as bucket,
         count(*) filter (where e.status = 'completed')::int as completed,
         count(*) filter (where e.status = 'failed')::int as failed,
         count(*) filter (where e.status = 'cancelled')::int as cancelled,
         percentile_cont(0.5) within group (order by greatest(e.waited, 0)) filter (where e.waited is not null) as waited_half,
         percentile_cont(0.95) within group (order by greatest(e.waited, 0)) filter (where e.waited is not null) as waited_most
    from ended e
   group by 1
)
select n.now, n.oldest, n.cut, s.bucket, s.completed, s.failed, s.cancelled, s.waited_half::float8 as waited_half, s.waited_most::float8 as waited_most
  from (select extract(epoch from statement_timestamp())::float8 as now, extract(epoch from min(e.at))::float8 as oldest,
               count(*) >= %(most)s as cut
          from ended e) n
  left join summed s on true
 order by s.bucket
