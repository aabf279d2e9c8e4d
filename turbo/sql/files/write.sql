-- Writes one file of a run, just before the run's result. Locks no task that runs: no result waits for it. One that is over is kept
-- from being deleted until the file is there, and passed over while somebody has it locked.
-- A replay after a lost answer adds nothing. Only for a claim that the task's row knows, or knew before a later one: the row may be
-- gone, or another task may have its id. Returns a row if the file is there.
with seen as materialized (
  select t.task_id, t.status::text = 'running' as running
    from public.agent_tasks t
   where t.task_id = %(task_id)s::text::public.turbo_task_id
     and abs(greatest(t.fencing_token, -9223372036854775807)) >= %(token)s::bigint
), late as materialized (
  select k.task_id from public.agent_tasks k
   where k.task_id = any (array(select s.task_id from seen s where not s.running))
     for key share skip locked
), written as (
  insert into public.agent_files (task_id, fencing_token, path, bytes, sha256)
  select s.task_id, %(token)s::bigint, %(path)s::text, %(bytes)s::bytea, %(sha256)s::bytea
    from seen s
   where s.running or s.task_id in (select l.task_id from late l)
  on conflict do nothing
)
select 1 from seen s where s.running or s.task_id in (select l.task_id from late l)
