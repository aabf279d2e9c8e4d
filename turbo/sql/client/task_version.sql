-- Client.task_version: tells whether the row of a task has changed, whoever changed it. By primary key; asked once a second for a task
-- that is looked at. A row that is gone: no row.
select t.status::text as status, t.xmin::text || ' ' || t.ctid::text as version
  from public.agent_tasks t
 where t.task_id = %(task_id)s::text::public.turbo_task_id
