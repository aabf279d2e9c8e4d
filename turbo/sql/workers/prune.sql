-- Run by the leader. Deletes rows of workers dead for a day, once no task names them.
-- Registers workers that tasks name but no row has (a failover lost it), so that the beats can count their silence.
-- Deletes progress that dead workers left; the minute protects the line of a claim that this snapshot does not see yet.
-- Times in the future are from before the database's clock was set back: they are old, too.
with unregistered as (
  insert into public.agent_workers (worker_id, name, host, pid, version, slots, queues)
  select distinct t.assigned_worker_id, t.assigned_worker_id, '', 0, '', 0, '{}'::text[]
    from public.agent_tasks t
   where t.status = 'running' and t.fencing_token > 0 and octet_length(t.assigned_worker_id) <= 255  -- turbo_bound_worker refuses others
     and not exists (select from public.agent_workers w where w.worker_id = t.assigned_worker_id)
  on conflict (worker_id) do nothing
), stale_progress as (
  delete from public.agent_progress p
   where p.updated_at not between clock_timestamp() - interval '1 minute' and clock_timestamp() + interval '1 minute'
     and not exists (select from public.agent_tasks t
                      where t.task_id = p.task_id and t.fencing_token = p.fencing_token and t.status = 'running')
)
delete from public.agent_workers w
 where w.state = 'dead'
   and w.heartbeat_at not between clock_timestamp() - interval '1 day' and clock_timestamp() + interval '1 day'
   and not exists (select from public.agent_tasks t where t.status = 'running' and t.assigned_worker_id = w.worker_id)
