-- Writes batches of transcripts. Sent by the worker's transcript service over a lane of its own. Locks no task that runs: no result
-- waits for it. Nobody can delete a running task; one that is over, for its last lines, is kept from being deleted until they are
-- there, and passed over while somebody has it locked: what is deleted with the task is all there is.
-- A replay after a lost answer adds nothing. Only for a claim that the task's row knows, or knew before a later one: the row may be
-- gone, or another task may have its id. Where the row does not know the claim, it may soon: after a failover, its worker takes it back.
-- Returns a row a claim: stored | gone (there is no such task) | unknown (try again later).
-- Whoever follows a task holds a shared advisory lock on it (client/follow_transcript): only then is a notification sent. Other
-- sessions that take the lock for themselves get one that nobody hears.
with given as materialized (
  select g.task_id::public.turbo_task_id as task_id, g.token, g.batch, g.session_id, g.kind, g.path, g.lines, g.sha256
    from unnest(%(task_id)s::text[], %(token)s::bigint[], %(batch)s::integer[], %(session_id)s::text[], %(kind)s::text[],
                %(path)s::text[], %(lines)s::text[], %(sha256)s::bytea[])
         as g(task_id, token, batch, session_id, kind, path, lines, sha256)
), seen as materialized (
  select c.task_id, c.token, t.task_id is not null as there, t.running,
         coalesce(abs(greatest(t.fencing_token, -9223372036854775807)) >= c.token, false) as knows
    from (select distinct g.task_id, g.token from given g) c
    left join lateral (select k.task_id, k.fencing_token, k.status::text = 'running' as running
                         from public.agent_tasks k where k.task_id = c.task_id offset 0) t on true
), late as materialized (
  select k.task_id
    from public.agent_tasks k
   where k.task_id = any (array(select s.task_id from seen s where s.knows and not s.running))
     for key share skip locked
), judged as materialized (
  select s.task_id, s.token,
         case when not s.there then 'gone'
              when s.knows and (s.running or s.task_id in (select l.task_id from late l)) then 'stored'
              else 'unknown' end as verdict
    from seen s
), written as (
  insert into public.agent_transcripts (task_id, fencing_token, batch, session_id, kind, path, lines, sha256)
  select g.task_id, g.token, g.batch, g.session_id, g.kind, g.path, g.lines, g.sha256
    from given g
   where (g.task_id, g.token) in (select j.task_id, j.token from judged j where j.verdict = 'stored')
   order by g.task_id, g.token, g.batch
  on conflict do nothing
  returning task_id
), followed as materialized (
  select w.task_id from (select distinct w.task_id from written w) w
   where not pg_try_advisory_xact_lock(1953854050, hashtext(w.task_id::text))
)
select j.task_id::text, j.token, j.verdict,
       (select count(pg_notify('turbo_transcript', f.task_id::text)) from followed f
         where pg_notification_queue_usage() <= 0.5 and octet_length(f.task_id::text) < 7900) as told
  from judged j
