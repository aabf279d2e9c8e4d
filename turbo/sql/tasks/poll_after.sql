-- Due rows of some queues that came after a position, oldest first, a hundred at most: as tasks/claim_after.sql, for tasks/poll and
-- tasks/expire, each of which takes its own of them.
-- Costs a look into an index for each queue, and the rows of the position's own moment.
with position as materialized (
  select %(moment)s::text::timestamptz as moment, %(after_id)s::text::public.turbo_task_id as task_id
)
select p.moment::text as since, found.task_id::text, found.fencing_token, found.run_after::text
  from position p
  left join lateral (
    select * from (
       select t.* from unnest(%(queues)s::text[]) q(queue)
        cross join lateral (
          select coalesce(
            (select u.run_after from public.agent_tasks u
              where u.status = 'scheduled' and u.queue = q.queue and u.run_after >= p.moment and u.run_after <= statement_timestamp()
                and (u.run_after > p.moment or p.task_id is null or u.task_id > p.task_id)
                and u.task_id <> all (%(aside)s::text[]::public.turbo_task_id[])
              order by u.run_after offset 99 limit 1), 'infinity') as moment) hundredth
        cross join lateral (
          select t.task_id, t.fencing_token, t.run_after from public.agent_tasks t
           where t.status = 'scheduled' and t.queue = q.queue and t.run_after >= p.moment
             and t.run_after <= least(hundredth.moment, statement_timestamp())
             and (t.run_after > p.moment or p.task_id is null or t.task_id > p.task_id)
             and t.task_id <> all (%(aside)s::text[]::public.turbo_task_id[])
           order by t.run_after, t.task_id limit 100) t
       union all
       select t.* from unnest(%(queues)s::text[]) q(queue)
        cross join lateral (
          select coalesce(
            (select u.run_after from public.agent_tasks u
              where u.status = 'waiting' and u.queue = q.queue and u.run_after >= p.moment
                and u.run_after <= statement_timestamp() and u.question ? 'then'
                and (u.run_after > p.moment or p.task_id is null or u.task_id > p.task_id)
                and u.task_id <> all (%(aside)s::text[]::public.turbo_task_id[])
              order by u.run_after offset 99 limit 1), 'infinity') as moment) hundredth
        cross join lateral (
          select t.task_id, t.fencing_token, t.run_after from public.agent_tasks t
           where t.status = 'waiting' and t.queue = q.queue and t.run_after >= p.moment and t.question ? 'then'
             and t.run_after <= least(hundredth.moment, statement_timestamp())
             and (t.run_after > p.moment or p.task_id is null or t.task_id > p.task_id)
             and t.task_id <> all (%(aside)s::text[]::public.turbo_task_id[])
           order by t.run_after, t.task_id limit 100) t) t
     order by t.run_after, t.task_id limit 100) found on true
 order by found.run_after, found.task_id
