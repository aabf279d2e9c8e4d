-- Retention, run by the leader: the next finished tasks in the order of their end, from where the last batch ended, and
-- which of them are old enough. Reads `limit` rows of the index agent_tasks_finished, however many tasks there are.
-- Age counts from completed_at and from run_after, whichever is later. An adopted table's completed_at has no zone, but its
-- history got run_after when it was adopted: none of it is deleted at once.
-- A row that turbo never claimed (fencing_token is null) may belong to an old poller and stays. The exception is a waiting
-- or held task that a person cancelled or denied, or one that was cancelled because a task it needs did not complete: the audit
-- trail shows these. What others wait for stays: needed; false may be all that is left of those who waited, so retention/tasks.sql looks.
-- Ages are in seconds; null keeps tasks for ever.
with batch as materialized (
  select t.task_id, t.completed_at, t.run_after, t.status::text as status, t.fencing_token, t.needed,
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
              where s.completed_at < s.before and s.run_after < s.before and s.needed is not true
                and (s.fencing_token is not null
                     or s.status = 'cancelled'
                        and exists (select from public.agent_actions a
                                     where a.task_id::text = s.task_id::text and a.action_type in ('edited', 'answered', 'needs_failed')
                                       and a.to_status = 'cancelled'))
              order by s.task_id) as due,
       (select count(*) from batch) as looked_at,
       (select l.completed_at::text from last l) as after,
       (select l.task_id::text from last l) as after_id
