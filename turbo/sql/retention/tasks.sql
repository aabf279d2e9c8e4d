-- Retention, run by the leader: deletes these tasks if they are still finished, old enough and not locked, and nobody waits for
-- them. What a task needed stays as long as that one is not over, 30 days longer at most: its runs get the output. So does the first task of a conversation
-- that goes on: its follow-ups work in the directory that its input names.
-- Safe with two leaders: each row is deleted and counted by one of them. The commit does not wait for the disk: a crash
-- that loses it costs nothing.
with old as (
  select t.task_id
    from public.agent_tasks t
   where t.task_id = any (%(task_id)s::text[]::public.turbo_task_id[])
     and t.status in ('completed', 'failed', 'cancelled') and t.needed is not true
     -- false: it failed, and who waits on for its retry keeps it
     and (t.needed is null
          or (select true from public.agent_dependencies d
               where d.needs = t.task_id and not d.settled and d.gone is null
                 and (select w.status is not distinct from 'blocked' from public.agent_tasks w where w.task_id = d.task_id)
               limit 1) is null)
     -- a look-up per row: NOT EXISTS may be planned as a hash of all dependencies
     and ((select true from public.agent_dependencies d
            where d.needs = t.task_id and d.gone is null
              and (select w.status in ('pending', 'scheduled', 'running', 'waiting', 'blocked')
                     from public.agent_tasks w where w.task_id = d.task_id)
            limit 1) is null
          or greatest(t.completed_at, t.run_after)
             < statement_timestamp() - interval '30 days'
               - make_interval(secs => case t.status::text when 'completed' then %(completed)s::float8
                                                           when 'failed'    then %(failed)s::float8
                                                           when 'cancelled' then %(cancelled)s::float8 end))
     and (select true from public.agent_conversations c
            join public.agent_conversations m on m.conversation = c.conversation
            join public.agent_tasks w on w.task_id = m.task_id
           where c.task_id = t.task_id and c.place = 0 and w.status in ('pending', 'scheduled', 'running', 'waiting', 'blocked')
           limit 1) is null
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
