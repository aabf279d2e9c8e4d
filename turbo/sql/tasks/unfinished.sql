-- Tasks whose files on a host's disk are still needed: those that a worker has run and that are not finished; and the first task of
-- each conversation that has a task which is not finished, run or not, because all of them work in its directory. Called by file
-- retention and by the sweep of the workspaces, at most once an hour and only if something is old enough to go. Costs a scan of
-- the pending rows.
with resting as materialized (
  select t.task_id, t.continues, t.fencing_token
    from public.agent_tasks t
   where t.status in ('pending', 'scheduled', 'blocked', 'running', 'waiting')
     and (t.fencing_token is not null or t.continues is not null)
)
select coalesce((select c.first from public.agent_conversations c where c.task_id = r.task_id), r.task_id::text)
  from resting r where r.fencing_token is not null
union
-- A follow-up that has no place yet is known by the task that it continues.
select coalesce(c.first, p.first, r.continues)
  from resting r
  left join public.agent_conversations c on c.task_id = r.task_id
  left join public.agent_conversations p on p.task_id::text = r.continues
 where r.continues is not null
