-- Questions of which a reminder is due, at most `most`, and locks their rows until the end of the transaction, in which
-- questions/remind.sql follows. Run by the leader, every 20 s. The n-th reminder is due at asked_at + n * remind_seconds; of
-- those that were missed, only the last. A row that somebody is answering is left for the next pass.
-- Reads the waiting rows of the index agent_tasks_at_rest: nothing else, when nothing waits.
with waits as materialized (
  select t.task_id, (t.question ->> 'asked_at')::timestamptz as asked_at,
         floor(extract(epoch from clock_timestamp() - (t.question ->> 'asked_at')::timestamptz)
               / (t.question ->> 'remind_seconds')::float8)::bigint as number
    from public.agent_tasks t
   where t.status = 'waiting'
     and case when jsonb_typeof(t.question -> 'remind_seconds') = 'number' and t.question ? 'asked_at'
              then (t.question ->> 'remind_seconds')::float8 > 0 end
)
select t.task_id::text, w.asked_at, w.number
  from waits w
  join public.agent_tasks t on t.task_id = w.task_id
 where w.number >= 1 and t.status = 'waiting'
   and not exists (select from public.agent_actions a
                    where a.task_id = t.task_id and a.action_type = 'reminded' and a.executed_at >= w.asked_at
                      and (a.detail ->> 'number')::bigint >= w.number)
 order by w.asked_at, t.task_id
 limit %(most)s
   for update of t skip locked
