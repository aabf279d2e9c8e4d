-- Who submitted a task that a budget in US dollars may cover by its submitter. No row: the task is gone.
select t.submitted_by from public.agent_tasks t where t.task_id = %(task_id)s::text::public.turbo_task_id
