-- Notes whether the conversation and the directory of a task can be had on any host, after one of its runs. Called by the worker that ran
-- it, until the answer is not 'wait': the result, or the last batch of the transcript, may not be there yet. Nothing is noted for a run
-- that is not the task's last. portable: of the directory, as the worker has seen it.
with task as materialized (
  select t.task_id, t.agent_session_id, t.fencing_token, abs(greatest(t.fencing_token, -9223372036854775807)) as token
    from public.agent_tasks t
   where t.task_id = %(task_id)s::text::public.turbo_task_id
), judged as materialized (
  select t.task_id, t.agent_session_id as session,
         case when t.token is distinct from %(token)s then 'other'
              when t.fencing_token > 0 then 'wait'
              when not %(portable)s or t.agent_session_id is null then 'pinned'
              else coalesce((select case when e.kind = 'event' and e.path = 'turbo' and starts_with(e.lines, '{"type": "turbo_end"')
                                         then case when strpos(e.lines, '"complete": true') > 0 then 'portable' else 'pinned' end end
                               from public.agent_transcripts e
                              where e.task_id = t.task_id and e.fencing_token = %(token)s
                              order by e.batch desc limit 1), 'wait') end as verdict
    from task t
), gone as (
  delete from public.agent_portable p
   where p.task_id = (select j.task_id from judged j where j.verdict = 'pinned')
), noted as (
  insert into public.agent_portable as p (task_id, session, at)
  select j.task_id, j.session, clock_timestamp() from judged j where j.verdict = 'portable'
  on conflict (task_id) do update set session = excluded.session, at = excluded.at
)
select coalesce((select j.verdict from judged j), 'other') as verdict
