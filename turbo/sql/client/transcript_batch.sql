-- Client.transcript_batch: one batch of a transcript, whole. By primary key.
select r.lines
  from public.agent_transcripts r
 where r.task_id = %(task_id)s::text::public.turbo_task_id and r.fencing_token = %(token)s::bigint and r.batch = %(batch)s::integer
