-- Retention, asked by the leader: the next finished tasks in the order of their end, from where the last look ended, and
-- which of them are old enough. Costs `limit` rows of the index agent_tasks_finished, however many tasks there are.
-- Age is counted from completed_at, and from run_after too: an adopted table's completed_at has no zone, and its history
-- was given run_after when it was adopted, so none of it goes at once. A row that turbo never claimed may be an old
-- poller's and stays (fencing_token is null), but for a waiting task that somebody cancelled, of which the trail knows.
-- Ages in seconds; null keeps them for ever.
with batch as materialized (
  select t.task_id, t.completed_at, t.run_after, t.status::text as status, t.fencing_token,
         statement_timestamp() - make_interval(secs => case t.status::text when 'completed' then %(completed)s::float8
                                                                           when 'failed'    then %(failed)s::float8
                                                                           when 'cancelled' then %(cancelled)s::float8 end) as before
    from public.agent_tasks t
   where t.status in ('completed', 'failed', 'cancelled')
     and t.completed_at < statement_timestamp()
                          - make_interval(secs => least(%(completed)s::float8, %(failed)s::float8, %(cancelled)s::float8))
     and t.completed_at >= %(after)s::timestamptz
     and (%(after_id)s::text is null or t.completed_at > %(after)s::timestamptz
          or t.task_id > %(after_id)s::text::public.turbo_task_id)
   order by t.completed_at, t.task_id
   limit %(limit)s
), last as (
  select s.completed_at, s.task_id from batch s order by s.completed_at desc, s.task_id desc limit 1
)
select array(select s.task_id::text
               from batch s
              where s.completed_at < s.before and s.run_after < s.before
                and (s.fencing_token is not null
                     or s.status = 'cancelled'
                        and exists (select from public.agent_actions a
                                     where a.task_id::text = s.task_id::text and a.action_type = 'edited' and a.to_status = 'cancelled'))
              order by s.task_id) as due,
       (select count(*) from batch) as looked_at,
       (select l.completed_at::text from last l) as after,
       (select l.task_id::text from last l) as after_id
