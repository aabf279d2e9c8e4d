-- Records what runs used. Sent by the worker in the transaction of the runs' results, after that statement (tasks/finish.sql,
-- tasks/ask.sql), and only if one of them used something; alone for runs that leave no result, because a shutdown or another
-- worker's claim ended them. A replay adds nothing: a row is a run, executor, account and model. Rows are written in the order of
-- their key, so two replays at once wait for each other and never deadlock.
-- Whose task it was is read from the task's row. One that does not know this claim, or a later one, is another task of that id: null.
insert into public.agent_usage (task_id, fencing_token, executor, account, model, attempt, queue, task_type, submitted_by,
                                input_tokens, output_tokens, cache_read_tokens, cache_write_tokens, cost_usd)
select i.task_id, i.fencing_token, i.executor, i.account, i.model, i.attempt, i.queue, i.task_type,
       (select t.submitted_by from public.agent_tasks t
         where t.task_id = i.task_id::public.turbo_task_id and t.fencing_token is not null
           and abs(greatest(t.fencing_token, -9223372036854775807)) >= i.fencing_token),
       i.input_tokens, i.output_tokens, i.cache_read_tokens, i.cache_write_tokens, i.cost_usd
  from json_to_recordset(%(usage)s::json)
       as i(task_id text, fencing_token bigint, executor text, account text, model text, attempt int, queue text, task_type text,
            input_tokens bigint, output_tokens bigint, cache_read_tokens bigint, cache_write_tokens bigint, cost_usd numeric)
 order by i.task_id, i.fencing_token, i.executor, i.account, i.model
on conflict do nothing
