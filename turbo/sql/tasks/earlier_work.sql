-- What earlier runs told of the worktree of a task's conversation (output_data.workspace, as the audit trail has it): the last run, the
-- last one that pushed the branch, and the first one of the task itself. Called by a worker before it opens a worktree whose branch it
-- pushes. A few look-ups in the index of the trail for each task of the conversation.
with member as materialized (
  select %(task_id)s::text::public.turbo_task_id as task_id
  union
  select m.task_id
    from public.agent_conversations c
    join public.agent_conversations m on m.conversation = c.conversation
   where c.task_id = %(task_id)s::text::public.turbo_task_id
), told as materialized (
  select a.action_id, a.task_id, a.detail -> 'workspace' as workspace
    from member m
    join public.agent_actions a on a.task_id = m.task_id
   where a.action_type in ('asked', 'finished') and jsonb_typeof(a.detail -> 'workspace') = 'object'
)
select (select t.workspace from told t order by t.action_id desc limit 1) as last,
       (select t.workspace from told t where t.workspace -> 'pushed' = 'true' order by t.action_id desc limit 1) as pushed,
       (select t.workspace from told t where t.task_id = %(task_id)s::text::public.turbo_task_id order by t.action_id limit 1) as own
