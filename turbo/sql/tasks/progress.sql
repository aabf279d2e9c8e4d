-- Writes the progress of one worker's runs: the last line and the tokens so far of each run that has news. Sent at most
-- once a second, on the progress loop's own connection. Also deletes the lines of runs that have ended.
-- Locks nothing in agent_tasks, so no claim or finish waits for it. Fenced twice: the claim must be running, and a line
-- never replaces one of a newer claim (if the task is claimed again while this statement runs).
-- Losing the write costs nothing, so the commit does not wait for the disk.
with reported as (
  select i.task_id, i.token, i.line, i.input_tokens, i.output_tokens
    from unnest(%(task_id)s::text[]::public.turbo_task_id[], %(token)s::bigint[], %(line)s::text[],
                %(input_tokens)s::bigint[], %(output_tokens)s::bigint[])
         as i(task_id, token, line, input_tokens, output_tokens)
    join public.agent_tasks t on t.task_id = i.task_id and t.fencing_token = i.token and t.status = 'running'
   order by i.task_id
), written as (
  insert into public.agent_progress as p (task_id, fencing_token, worker_id, text, input_tokens, output_tokens)
  select s.task_id, s.token, %(worker)s, s.line, s.input_tokens, s.output_tokens from reported s
  on conflict (task_id) do update
     set fencing_token = excluded.fencing_token, worker_id = excluded.worker_id, text = excluded.text,
         input_tokens = excluded.input_tokens, output_tokens = excluded.output_tokens, updated_at = clock_timestamp()
   where p.fencing_token <= excluded.fencing_token
), ended as (
  delete from public.agent_progress p
   using unnest(%(over_id)s::text[]::public.turbo_task_id[], %(over_token)s::bigint[]) as o(task_id, token)
   where p.task_id = o.task_id and p.fencing_token = o.token
)
select set_config('synchronous_commit', 'off', true)
