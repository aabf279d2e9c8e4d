-- Tasks that a worker has run and that are not over: what they left on a host's disk is still wanted. Called by the tidy
-- loop, at most once an hour and only when something is old enough to go. Costs a scan of the pending rows.
select t.task_id::text
  from public.agent_tasks t
 where t.status in ('pending', 'scheduled', 'running') and t.fencing_token is not null
