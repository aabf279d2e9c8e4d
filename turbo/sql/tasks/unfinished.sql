-- Tasks that a worker has run and that are not finished: their files on a host's disk are still needed. Called by file
-- retention, at most once an hour and only if a file is old enough to go. Costs a scan of the pending rows.
select t.task_id::text
  from public.agent_tasks t
 where t.status in ('pending', 'scheduled', 'blocked', 'running', 'waiting') and t.fencing_token is not null
