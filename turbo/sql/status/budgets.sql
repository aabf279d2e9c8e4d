-- Status and doctor: the budgets that are spent, nearly spent, or not counted for over a minute, at most `limit`, the spent ones first.
-- older: a live worker that serves what it covers, and knows no budgets. of_all: how many there are.
select b.name, b.account, b.queue, b.task_type, b.submitted_by, b.usd::float8 as usd, b.tokens, b.runs, b.spent_usd::float8 as spent_usd,
       b.spent_tokens, b.spent_runs, b.paused_until, b.timezone, b.since is null as uncounted, o.worker_id as older, count(*) over () as of_all
  from public.agent_budgets b
  left join lateral (select w.worker_id from public.agent_workers w
                      where w.state in ('up', 'paused') and coalesce(w.schema, 0) < 21 and (b.queue is null or w.queues && array[b.queue])
                        and w.heartbeat_at between clock_timestamp() - make_interval(secs => w.lease_seconds)
                                               and clock_timestamp() + make_interval(secs => w.lease_seconds)
                      order by w.worker_id limit 1) o on true
 where b.paused_until > clock_timestamp() or o.worker_id is not null
    or b.since is null and b.updated_at < clock_timestamp() - interval '1 minute'
    or b.warned and (b.period = 'total' or b.since >= date_trunc(b.period, clock_timestamp(), b.timezone))
 order by b.paused_until is null, b.name
 limit %(limit)s
