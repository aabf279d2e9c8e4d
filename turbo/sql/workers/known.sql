-- Does this database know the owner of these files? By the id of a worker, or by one of its claims: fencing tokens are unique, and
-- a consumed one is negative.
-- Called at a worker's start, for files of a turbo that did not note whose they are. One row, or none.
select %(owner)s::text
 where exists (select from public.agent_workers w where w.worker_id = %(owner)s)
    or exists (select from unnest(%(task_id)s::text[]::public.turbo_task_id[], %(token)s::bigint[]) c(task_id, token)
                where exists (select from public.agent_tasks t where t.task_id = c.task_id and t.fencing_token in (c.token, - c.token))
                   or exists (select from public.agent_actions a where a.task_id = c.task_id and a.fencing_token = c.token))
