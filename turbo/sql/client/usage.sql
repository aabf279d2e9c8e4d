-- Client.usage: what the runs of one task used, in their order, at most `limit`. By the unique index, which begins with the task.
select u.attempt, u.fencing_token, u.at, u.executor, u.account, u.model, u.input_tokens, u.output_tokens, u.cache_read_tokens,
       u.cache_write_tokens, u.cost_usd::float8 as cost_usd
  from public.agent_usage u
 where u.task_id = %(task_id)s::text
 order by u.fencing_token, u.at, u.executor, u.account, u.model
 limit %(limit)s
