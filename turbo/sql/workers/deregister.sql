-- A worker says goodbye after its shutdown: its row is deleted. If the database still holds tasks in its name, the row is
-- marked dead instead, and any beat rescues them at once.
with held as (
  select exists (select from public.agent_tasks t
                  where t.status = 'running' and t.assigned_worker_id = %(worker)s and t.fencing_token > 0) as any
), removed as (
  delete from public.agent_workers w using held where w.worker_id = %(worker)s and not held.any
)
update public.agent_workers w set state = 'dead', idle = false from held where w.worker_id = %(worker)s and held.any
