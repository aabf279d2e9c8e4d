-- Client.budgets.list and get: the budgets, by name; `names` null: all of them. What is spent is of the period that holds this moment:
-- nothing, if no worker has counted it yet. ends: of that period. Reads the table once, or by its key.
select b.name, b.account, b.queue, b.task_type, b.submitted_by, b.period, b.timezone, b.usd::float8 as usd, b.tokens, b.runs, b.warn_at,
       b.created_by, b.created_at, b.updated_at, b.since,
       case when p.current then b.spent_usd else 0 end::float8 as spent_usd, case when p.current then b.spent_tokens else 0 end as spent_tokens,
       case when p.current then b.spent_runs else 0 end as spent_runs, b.warned and p.current as warned,
       b.paused_until, p.ends, clock_timestamp() as now
  from public.agent_budgets b
 cross join lateral (
   select b.since is not null and (b.period = 'total' or b.since >= n.since) as current,
          case when b.period = 'hour' then n.since + interval '1 hour'
               when b.period <> 'total' then date_trunc(b.period, (n.since at time zone b.timezone) + ('1 ' || b.period)::interval) at time zone b.timezone
          end as ends
     from (select case when b.period <> 'total' then date_trunc(b.period, clock_timestamp(), b.timezone) end as since) n) p
 where %(names)s::text[] is null or b.name = any (%(names)s::text[])
 order by b.name
 limit %(limit)s
