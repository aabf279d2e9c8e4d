-- Whether another task of the same conversation is not over. Called by a worker before it removes a worktree after a success. A
-- follow-up that has no place yet is known by its note, or because it is held. Locks nothing: one that is inserted later begins with a
-- new worktree.
with member as materialized (
  select %(task_id)s::text::public.turbo_task_id as task_id
  union
  select m.task_id
    from public.agent_conversations c
    join public.agent_conversations m on m.conversation = c.conversation
   where c.task_id = %(task_id)s::text::public.turbo_task_id
)
select exists (select from member m
                 join public.agent_tasks t on t.task_id = m.task_id
                where m.task_id <> %(task_id)s::text::public.turbo_task_id
                  and t.status in ('pending', 'scheduled', 'blocked', 'running', 'waiting'))
    or exists (select from public.agent_unsettled u
                 join public.agent_tasks t on t.task_id = u.task_id
                where t.conversation is null and t.continues = any (array(select m.task_id::text from member m))
                  and t.status in ('pending', 'scheduled', 'blocked', 'waiting'))
    or exists (select from public.agent_tasks t
                where t.status = 'waiting' and t.conversation is null
                  and t.continues = any (array(select m.task_id::text from member m))) as goes_on
