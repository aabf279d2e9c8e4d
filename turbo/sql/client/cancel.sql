-- Client.cancel: the same update that a person may type; turbo's trigger turbo_judge_update does the rest.
-- A running task keeps its status, with the requested one recorded, until its program is gone.
-- The rows are locked in the order of their ids first, as a batch of results locks them: none waits for the other in a circle.
update public.agent_tasks t
   set status = 'cancelled'
 where t.task_id = any (array(select l.task_id
                                from public.agent_tasks l
                               where l.task_id = any (%(task_id)s::text[]::public.turbo_task_id[])
                                 and l.status in ('pending', 'scheduled', 'blocked', 'running', 'waiting')
                               order by l.task_id
                                 for no key update))
   and t.status in ('pending', 'scheduled', 'blocked', 'running', 'waiting')
returning t.task_id::text as task_id, t.status::text as status
