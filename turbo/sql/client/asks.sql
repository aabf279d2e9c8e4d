-- Client.answer: why was nothing answered? The status of one task, and the kind of what it asks now.
select t.status::text as status, t.question ->> 'kind' as kind
  from public.agent_tasks t
 where t.task_id = %(task_id)s::text::public.turbo_task_id
