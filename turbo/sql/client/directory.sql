-- Client.directory_id: which task's directory and worktree a task works in. That of the first task of its conversation, else its own.
select coalesce((select c.first from public.agent_conversations c where c.task_id = %(task_id)s::text::public.turbo_task_id),
                %(task_id)s::text) as directory_id
