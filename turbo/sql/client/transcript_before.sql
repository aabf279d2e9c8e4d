-- Client.transcript_page: as client/transcript_since, the batches before one, or (without one) the last ones; the newest first.
select r.fencing_token, r.batch, r.at, r.session_id, r.kind, r.path, left(r.lines, %(most)s) as lines, length(r.lines) as size
  from public.agent_transcripts r
 where r.task_id = %(task_id)s::text::public.turbo_task_id
   and (r.fencing_token, r.batch) < (coalesce(%(token)s::bigint, 9223372036854775807), coalesce(%(batch)s::integer, 2147483647))
 order by r.fencing_token desc, r.batch desc
 limit %(limit)s
