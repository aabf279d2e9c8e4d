-- Status: what ended in the last `seconds`, by host and status. Uses the index agent_tasks_finished: costs what ended in that
-- time, not what history holds. host: of the worker that ran it while its row exists, else its name, taken from its id.
-- tokens and cost are those of each task's last run (output_data.usage). The hosts with the most tasks, at most `limit`; the others
-- are one, without a name: a worker's id may be invented.
with ended as materialized (
  select t.status::text as status, t.assigned_worker_id, t.execution_time_ms, t.output_data -> 'usage' as usage
    from public.agent_tasks t
   where t.status in ('completed', 'failed', 'cancelled')
     and t.completed_at > statement_timestamp() - make_interval(secs => %(seconds)s::float8)
     and t.completed_at < statement_timestamp() + interval '1 day'      -- a person may have written any moment
), counted as (
  select e.status, e.execution_time_ms, u.input_tokens, u.output_tokens, u.cost_usd,
         coalesce(w.host, regexp_replace(e.assigned_worker_id, '-[0-9]+-[0-9a-f]{6}$', ''), '') as host
    from ended e
    left join public.agent_workers w on w.worker_id = e.assigned_worker_id
    left join lateral (
      -- a person may have written anything into output_data: only numbers count
      select sum(case when k.key in ('input_tokens', 'cache_read_tokens', 'cache_write_tokens') then (k.value)::numeric end) as input_tokens,
             sum(case when k.key = 'output_tokens' then (k.value)::numeric end) as output_tokens,
             sum(case when k.key = 'cost_usd' then (k.value)::numeric end) as cost_usd
        from jsonb_array_elements(case jsonb_typeof(e.usage) when 'array' then e.usage end) m
       cross join lateral jsonb_each(case jsonb_typeof(m) when 'object' then m end) k
       where jsonb_typeof(k.value) = 'number'
    ) u on e.usage is not null
), named as (
  select c.host from counted c group by c.host order by count(*) desc, c.host limit %(limit)s
)
select n.host, c.status, count(*)::int as tasks, (avg(c.execution_time_ms) / 1000)::float8 as mean_seconds,
       least(greatest(coalesce(sum(c.input_tokens), 0), 0), 1e18)::bigint as input_tokens, least(greatest(coalesce(sum(c.output_tokens), 0), 0), 1e18)::bigint as output_tokens,
       least(greatest(coalesce(sum(c.cost_usd), 0), 0), 1e18)::float8 as cost_usd
  from counted c left join named n on n.host = c.host
 group by n.host, c.status
 order by n.host nulls last, c.status
