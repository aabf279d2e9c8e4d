-- Which runs have rows of an agent's session, in their order; and whether each was stored to its end. Read by a worker that is to go on
-- with the session. complete: null while the run goes on, and for ever if its worker was killed. Ids of sessions are unique, and
-- tokens grow: runs of follow-ups come after those of the task that they continue.
select r.task_id::text, r.fencing_token, r.batches, r.bytes, l.complete
  from (select s.task_id, s.fencing_token, count(*) as batches, sum(octet_length(s.lines))::bigint as bytes
          from public.agent_transcripts s
         where s.session_id = %(session_id)s and s.kind = 'session'
         group by s.task_id, s.fencing_token) r
 cross join lateral (select case when e.kind = 'event' and e.path = 'turbo' and starts_with(e.lines, '{"type": "turbo_end"')
                                 then strpos(e.lines, '"complete": true') > 0 end as complete
                       from public.agent_transcripts e
                      where e.task_id = r.task_id and e.fencing_token = r.fencing_token
                      order by e.batch desc limit 1) l
 order by r.fencing_token
