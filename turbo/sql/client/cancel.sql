-- Client.cancel: the same hand edit that anybody may type; turbo's trigger does the rest (sql: turbo_judge_update).
-- A running task stays running, with the wish recorded, until its program is gone.
update public.agent_tasks t
   set status = 'cancelled'
 where t.task_id = any (%(task_id)s::text[]::public.turbo_task_id[]) and t.status in ('pending', 'scheduled', 'running')
returning t.task_id::text as task_id, t.status::text as status
