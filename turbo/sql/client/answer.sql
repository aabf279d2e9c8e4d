-- Client.answer, approve and deny: the same update that a person may type. The trigger zz_turbo_take_answer judges the answer and
-- makes the rows pending; a refusal changes none of them. A row that does not wait, that asks something of another kind, or that asks
-- something else by now, is left out. keys: what the caller has seen, one for each id; null: whatever it asks. A key is question.asked_at,
-- and of a hold also a digest of what is released: it can be edited while it is held.
-- Of two answers at once the second waits for the first, and is left out.
update public.agent_tasks t
   set answer = %(answer)s::text
 where t.task_id = any (%(task_ids)s::text[]::public.turbo_task_id[]) and t.status = 'waiting' and t.question is not null
   and (%(kinds)s::text[] is null or t.question ->> 'kind' = any (%(kinds)s::text[]))
   and coalesce(case when t.question ->> 'kind' = 'hold'
                     then concat(t.question ->> 'asked_at', ' ', md5(row(t.task_description, t.input_data, t.task_type, t.queue,
                                                                         t.needs, t.on_needs_failed, t.continues, t.submitted_by, t.parent_task_id,
                                                                         t.task_priority, t.timeout_seconds, t.max_retries, t.concurrency_key,
                                                                         t.question ->> 'run_after')::text))
                     else t.question ->> 'asked_at' end
                = (%(keys)s::text[])[array_position(%(task_ids)s::text[], t.task_id::text)], true)
returning t.task_id::text as task_id, t.status::text as status
