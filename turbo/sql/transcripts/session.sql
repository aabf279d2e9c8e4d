-- Which runs have rows of an agent's session, in their order: whether each was stored to its end, whether its result is known, and
-- whether that was a question. Read by a worker that is to go on with the session. complete: null where no last batch came.
select r.task_id::text, r.fencing_token, r.bytes, l.complete, coalesce(a.over, false) as over, coalesce(a.asked, false) as asked
  from (select s.task_id, s.fencing_token, sum(octet_length(s.lines))::bigint as bytes
          from public.agent_transcripts s
         where s.session_id = %(session_id)s and s.kind = 'session'
         group by s.task_id, s.fencing_token) r
 cross join lateral (select case when e.kind = 'event' and e.path = 'turbo' and starts_with(e.lines, '{"type": "turbo_end"')
                                 then strpos(e.lines, '"complete": true') > 0 end as complete
                       from public.agent_transcripts e
                      where e.task_id = r.task_id and e.fencing_token = r.fencing_token
                      order by e.batch desc limit 1) l
  left join lateral (select true as over, bool_or(x.action_type = 'asked') as asked
                       from public.agent_actions x
                      where x.task_id = r.task_id and x.fencing_token = r.fencing_token
                        and x.action_type in ('asked', 'finished', 'late')
                     having count(*) > 0) a on true
 order by r.fencing_token
