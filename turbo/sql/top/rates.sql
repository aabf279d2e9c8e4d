-- Top: how many tasks ended in the last `seconds`, by status and by interval of `bucket` seconds on the database's clock.
-- Reads the newest `most` of them, by the index on completed_at: costs what ended in that time. Always returns at least one
-- row, for `now`.
with ended as materialized (
  select t.status::text as status, t.completed_at::timestamptz as at
    from public.agent_tasks t
   where t.status in ('completed', 'failed', 'cancelled')
     and t.completed_at > statement_timestamp() - make_interval(secs => %(seconds)s::float8)
     and t.completed_at < statement_timestamp() + interval '1 day'  -- a person may have written any moment
   order by t.completed_at desc
   limit %(most)s
)
select n.now, b.bucket, b.status, b.tasks
  from (select extract(epoch from statement_timestamp())::float8 as now) n
  left join (select floor(extract(epoch from e.at) / %(bucket)s::float8)::bigint as bucket, e.status, count(*)::int as tasks
               from ended e
              group by 1, 2) b on true
