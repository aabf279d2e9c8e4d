-- Client.transcript: the next batches of a task's transcript, of all its runs in their order, `limit` at most. By primary key; polled
-- once a second while it is followed.
select r.fencing_token, r.batch, r.at, r.session_id, r.kind, r.path, r.lines
  from public.agent_transcripts r
 where r.task_id = %(task_id)s::text::public.turbo_task_id and (r.fencing_token, r.batch) > (%(token)s::bigint, %(batch)s::integer)
 order by r.fencing_token, r.batch
 limit %(limit)s
