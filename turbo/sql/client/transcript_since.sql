-- Client.transcript_page: the next batches of a task's transcript, of all its runs in their order. By primary key. Each is cut to `most`
-- characters: one that is longer is one line. `size`: its characters. No more than `limit` batches.
select r.fencing_token, r.batch, r.at, r.session_id, r.kind, r.path, left(r.lines, %(most)s) as lines, length(r.lines) as size
  from public.agent_transcripts r
 where r.task_id = %(task_id)s::text::public.turbo_task_id and (r.fencing_token, r.batch) > (%(token)s::bigint, %(batch)s::integer)
 order by r.fencing_token, r.batch
 limit %(limit)s
