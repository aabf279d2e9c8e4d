-- Writes the reminders that questions/due.sql found, in its transaction. Their rows are locked, and this statement sees what
-- was committed before: with two leaders at once each reminder is written by one of them. An answer waits for the commit.
insert into public.agent_actions (task_id, action_type, success, actor, detail)
select d.task_id::public.turbo_task_id, 'reminded', true, %(worker)s,
       jsonb_build_object('number', d.number, 'age_seconds', floor(extract(epoch from clock_timestamp() - d.asked_at))::bigint)
  from unnest(%(task_id)s::text[], %(asked_at)s::timestamptz[], %(number)s::bigint[]) d(task_id, asked_at, number)
 where not exists (select from public.agent_actions a
                    where a.task_id = d.task_id::public.turbo_task_id and a.action_type = 'reminded'
                      and a.executed_at >= d.asked_at and (a.detail ->> 'number')::bigint >= d.number)
returning task_id::text
