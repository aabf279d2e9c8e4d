-- Client.questions: who waits for a person, the longest first; a null parameter matches everything. Uses agent_tasks_at_rest: costs
-- what waits, whatever else is in the table. since: asked at or after this time. worker: part of the id of the worker whose run
-- asked. text: part of the description or of the question. A hold comes with all that is released with it, if `whole`: that
-- may be hundreds of megabytes; released: what else it is released with. key: as in client/answer.sql.
select t.task_id::text as task_id, t.queue, left(t.task_type, 1000) as task_type, left(t.task_description, 200) as task_description, t.question,
       case when q.hold and %(whole)s::boolean then t.task_description end as held,
       case when q.hold and %(whole)s::boolean then t.input_data end as input_data,
       case when q.hold then (t.question ->> 'run_after')::timestamptz end as run_after,
       case when q.hold and %(whole)s::boolean then jsonb_build_object(
         'continues', t.continues, 'parent_task_id', t.parent_task_id, 'submitted_by', t.submitted_by,
         'needs', t.needs[:100], 'all_needs', cardinality(t.needs), 'on_needs_failed', t.on_needs_failed,
         'task_priority', t.task_priority, 'timeout_seconds', t.timeout_seconds, 'max_retries', t.max_retries,
         'concurrency_key', t.concurrency_key) end as released,
       case when q.hold then concat(t.question ->> 'asked_at', ' ', md5(row(t.task_description, t.input_data, t.task_type, t.queue,
                                                                            t.needs, t.on_needs_failed, t.continues, t.submitted_by, t.parent_task_id,
                                                                            t.task_priority, t.timeout_seconds, t.max_retries, t.concurrency_key,
                                                                            t.question ->> 'run_after')::text))
            else t.question ->> 'asked_at' end as key,
       q.asked_at, (t.question ->> 'answer_by')::timestamptz as answer_by, case when not public.turbo_is_portable(t.task_id::public.turbo_task_id, t.agent_session_id::text) then left(t.prefer_host, 255) end as host,
       greatest(0, extract(epoch from clock_timestamp() - q.asked_at))::float8 as age
  from public.agent_tasks t
 cross join lateral (select (t.question ->> 'asked_at')::timestamptz as asked_at, t.question ->> 'kind' = 'hold' as hold) q
 where t.status = 'waiting' and t.question is not null
   and (%(task_ids)s::text[] is null or t.task_id = any (%(task_ids)s::text[]::public.turbo_task_id[]))
   and (%(kinds)s::text[] is null or t.question ->> 'kind' = any (%(kinds)s::text[]))
   and (%(queue)s::text is null or t.queue = %(queue)s::text)
   and (%(task_type)s::text is null or t.task_type = %(task_type)s::text)
   -- from the audit trail: a row that waits has no worker
   and (%(worker)s::text is null
        or coalesce((select position(%(worker)s::text in a.actor) > 0 from public.agent_actions a
                      where a.task_id = t.task_id and a.action_type = 'asked' order by a.executed_at desc limit 1), false))
   and (%(since)s::timestamptz is null or q.asked_at >= %(since)s::timestamptz)
   and (%(text)s::text is null
        or position(lower(%(text)s::text) in lower(t.task_description || coalesce(' ' || (t.question ->> 'text'), ''))) > 0)
 order by q.asked_at, t.task_id
 limit %(limit)s
