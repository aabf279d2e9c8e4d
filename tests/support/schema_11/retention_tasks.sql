-- Retention, run by the leader: deletes these tasks if they are still finished, old enough and not locked.
-- Safe with two leaders: each row is deleted and counted by one of them. The commit does not wait for the disk: a crash
-- that loses it costs nothing.
with old as (
  select t.task_id
    from public.agent_tasks t
   where t.task_id = any (%(task_id)s::text[]::public.turbo_task_id[])
     and t.status in ('completed', 'failed', 'cancelled')
     and greatest(t.completed_at, t.run_after)
         < statement_timestamp() - make_interval(secs => case t.status::text when 'completed' then %(completed)s::float8
                                                                             when 'failed'    then %(failed)s::float8
                                                                             when 'cancelled' then %(cancelled)s::float8 end)
   order by t.task_id
     for update skip locked
), removed as (
  delete from public.agent_tasks t using old where t.task_id = old.task_id returning t.status::text as status
)
select count(*) filter (where g.status = 'completed') as completed, count(*) filter (where g.status = 'failed') as failed,
       count(*) filter (where g.status = 'cancelled') as cancelled, set_config('synchronous_commit', 'off', true) as fast
  from removed g
