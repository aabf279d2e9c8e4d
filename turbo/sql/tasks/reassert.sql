-- Takes back the tasks that reconcile calls lost: a failover lost the claim itself, or another worker rescued the task and
-- it was not claimed since. What the token of a waiting row means:
--   mine: it was rescued, so it is taken back.
--   minus mine: it was released, or requeued by hand, and stays so.
--   older than mine, my claim not in the audit trail: the database lost my claim, so it is taken back.
--   older than mine, my claim in the audit trail: my row was deleted and this one only has its id, so it stays.
-- A row that waits for an answer, or for other tasks, has lost that together with my claim. It gets the answer again that my run
-- was given (number: to which question), and a hold is taken from it: it was released before I claimed it.
-- A conversation that another task runs by now stays with it, and a concurrency key of which as many run as may: that avoids 23505. On a
-- conflict another session took the key or its place meanwhile: the same statement again, one task per call.
with i as (
  select t.task_id, i.token, t.status::text as was, i.number, i.answer, t.question ->> 'kind' = 'hold' as held, p.place
    from unnest(%(task_id)s::text[]::public.turbo_task_id[], %(token)s::bigint[], %(number)s::int[], %(answer)s::text[])
         i(task_id, token, number, answer)
    join public.agent_tasks t on t.task_id = i.task_id
    left join lateral public.turbo_places(array[t.task_id]::public.turbo_task_id[], array[t.concurrency_key]::text[]) p on t.concurrency_key is not null
   where t.status in ('pending', 'scheduled', 'waiting', 'blocked')
     and (t.fencing_token = i.token
          or (t.fencing_token is null or abs(greatest(t.fencing_token, -9223372036854775807)) < i.token)
             and not coalesce((select true from public.agent_actions a
                                where a.task_id = i.task_id and a.fencing_token = i.token limit 1), false))
     and (t.concurrency_key is null or p.place is not null)
     and (t.conversation is null
          or not exists (select from public.agent_tasks k where k.status = 'running' and k.conversation = t.conversation))
   order by t.task_id
     for update of t
), r as (
  update public.agent_tasks t
     set status = 'running', assigned_worker_id = %(worker)s, fencing_token = i.token,
         started_at = coalesce(t.started_at, clock_timestamp()), completed_at = null, key_slot = nullif(i.place, 0::smallint),
         run_after = case when i.was = 'waiting' then clock_timestamp() else t.run_after end,
         question  = case when i.was = 'waiting' and i.held then t.question -> 'held' else t.question end,
         answer    = case when i.was <> 'waiting' then t.answer
                          when i.held then t.question ->> 'held_answer'
                          when (t.question ->> 'number')::int = i.number then i.answer end, turbo_rev = t.turbo_rev + 1
    from i
   where t.task_id = i.task_id
  returning t.task_id, t.fencing_token, i.was, t.question, t.answer
), audit as (
  insert into public.agent_actions (task_id, action_type, success, actor, from_status, to_status, fencing_token, detail)
  select r.task_id, 'reasserted', true, %(worker)s, r.was, 'running', r.fencing_token,
         case when r.was = 'waiting' then jsonb_build_object('question', r.question, 'answer', r.answer) end
    from r
)
select r.task_id::text, r.fencing_token as token from r
