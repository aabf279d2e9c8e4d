-- The next batches of one run, in order, `limit` at most. Read by a worker that is to go on with its session.
select r.batch, r.session_id, r.kind, r.path, r.lines, r.sha256
  from public.agent_transcripts r
 where r.task_id = %(task_id)s::public.turbo_task_id and r.fencing_token = %(token)s and r.batch > %(after)s
 order by r.batch
 limit %(limit)s
