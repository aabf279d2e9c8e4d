-- Ends the wait of questions of these queues whose deadline has passed: `then` decides whether the task goes on without an answer, or
-- fails. Sent after a poll that saw such a deadline (tasks/poll.sql), on the same connection: in the poll itself it would make each
-- one dearer. A row that somebody is answering is locked, and left. A hold has no `then`.
-- A thousand rows at most, the same number of each queue. expired: how many rows. runnable: queues where a task goes on.
-- needed: others wait for a task that failed. next_in: seconds to the next deadline that is still to come, or null.
with due as materialized (
  select d.*
    from unnest(%(queues)s::text[]) q(queue)
   cross join lateral (
     select t.task_id, case t.question ->> 'then' when 'fail' then 'failed' else 'pending' end as after
       from public.agent_tasks t
      where t.status = 'waiting' and t.queue = q.queue and t.run_after <= statement_timestamp() and t.question ? 'then'
        --if aside: and t.task_id <> all (%(aside)s::text[]::public.turbo_task_id[])
        --if only: and t.task_id = any (%(only)s::text[]::public.turbo_task_id[])
      order by t.run_after
      limit 1 + 999 / greatest(1, cardinality(%(queues)s::text[]))
        for update skip locked) d
--end which: ) select d.task_id::text, (select t.fencing_token from public.agent_tasks t where t.task_id = d.task_id) from due d
), expired as (
  update public.agent_tasks t
     set status        = d.after::public.turbo_status,
         question      = t.question || '{"expired": true}',
         completed_at  = case d.after when 'failed' then clock_timestamp() end,
         failure_kind  = case d.after when 'failed' then 'unanswered' else t.failure_kind end,
         error_message = case d.after when 'failed' then 'nobody answered in time' else t.error_message end,
         turbo_rev     = t.turbo_rev + 1
    from due d
   -- The rows are locked, so they still wait. The array keeps this a look-up by primary key, whatever plan was made first.
   where t.task_id = d.task_id and t.task_id = any (array(select task_id from due))
  returning t.task_id, t.queue, t.fencing_token, d.after, t.question, t.needed,
            public.turbo_tell_who_waits(t.task_id::text, d.after::text) as told
), audit as (
  insert into public.agent_actions (task_id, action_type, success, actor, from_status, to_status, fencing_token, detail)
  select e.task_id, 'unanswered', e.after = 'pending', %(worker)s, 'waiting', e.after, e.fencing_token,
         jsonb_build_object('question', e.question)
    from expired e
)
select (select count(*) from expired) as expired,
       array(select distinct e.queue from expired e
              where e.after = 'pending'
                and not exists (select from public.agent_queues p where p.queue = e.queue and p.paused)) as runnable,
       (select bool_or(e.needed) from expired e where e.after = 'failed') as needed,
       (select extract(epoch from min(n.run_after) - statement_timestamp())::float8
          from unnest(%(queues)s::text[]) q(queue)
         cross join lateral (
           select t.run_after from public.agent_tasks t
            where t.status = 'waiting' and t.queue = q.queue
              and t.run_after > statement_timestamp() and t.run_after < '8999-01-01'
            order by t.run_after limit 1) n) as next_in,
       set_config('synchronous_commit', 'off', true) as fast
