-- A restarted worker found these siblings of its host dead (their lock on the state directory is free): say so at once,
-- so that their tasks need not wait for a lease. Called after their spools were replayed; rescue.sql follows.
-- A row that is gone is made, so that its tasks can be found.
insert into public.agent_workers as w (worker_id, name, host, pid, version, slots, queues, state)
select d.worker_id, d.worker_id, %(host)s, 0, '', 0, '{}', 'dead'
  from unnest(%(dead)s::text[]) d(worker_id)
 where exists (select from public.agent_workers k where k.worker_id = d.worker_id)
    or exists (select from public.agent_tasks t where t.status = 'running' and t.assigned_worker_id = d.worker_id)
on conflict (worker_id) do update set state = 'dead', idle = false
 where w.host = %(host)s
returning w.worker_id
