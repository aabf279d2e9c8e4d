-- A restarted worker found these workers of its host dead (their lock in the state directory is free). Marking them dead at
-- once saves their tasks the wait for a lease. Called after their spools were replayed; tasks/rescue.sql follows.
-- A missing row is created, so that its tasks are found.
insert into public.agent_workers as w (worker_id, name, host, pid, version, slots, queues, state)
select d.worker_id, d.worker_id, %(host)s, 0, '', 0, '{}', 'dead'
  from unnest(%(dead)s::text[]) d(worker_id)
 where exists (select from public.agent_workers k where k.worker_id = d.worker_id)
    or exists (select from public.agent_tasks t where t.status = 'running' and t.assigned_worker_id = d.worker_id)
on conflict (worker_id) do update set state = 'dead', idle = false
 where w.host = %(host)s
returning w.worker_id
