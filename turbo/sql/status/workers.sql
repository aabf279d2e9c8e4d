-- Status: at most `limit` worker rows, those that live first, then those that have tasks, then those that started first: whoever
-- may write here may invent workers. Their running tasks are counted by their index. silent_seconds: since its last beat, or by the beats that others
-- counted where that lies in the future (the database's clock was set back). of_all: how many rows there are.
with busy as materialized (
  select distinct t.assigned_worker_id as worker_id from public.agent_tasks t where t.status = 'running'
), workers as (
  select w.*, w.heartbeat_at not between clock_timestamp() - make_interval(secs => w.lease_seconds)
                                     and clock_timestamp() + make_interval(secs => w.lease_seconds) as silent
    from public.agent_workers w
), listed as (
  select w.*, count(*) over ()::int as of_all
    from workers w
   order by w.state = 'dead' or w.silent, not exists (select from busy b where b.worker_id = w.worker_id), w.started_at, w.worker_id
   limit %(limit)s
)
select w.worker_id, w.name, w.host, w.pid, w.version, w.slots, w.queues, w.accounts, w.metrics_address, w.state, w.idle, w.problems,
       (select count(*) from public.agent_tasks t
         where t.status = 'running' and t.assigned_worker_id = w.worker_id)::int as running,
       case when w.heartbeat_at <= clock_timestamp() then extract(epoch from clock_timestamp()) - extract(epoch from w.heartbeat_at)
            else w.silent_beats * w.heartbeat_seconds end::float8 as silent_seconds,
       (extract(epoch from clock_timestamp()) - extract(epoch from w.started_at))::float8 as up_seconds,
       w.silent, w.of_all
  from listed w
 order by w.host, w.worker_id
