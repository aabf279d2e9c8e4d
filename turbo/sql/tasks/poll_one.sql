-- The poll of one queue: tasks/poll.sql, whose head explains it, without the steps over several queues. They would cost it 9 %.
with due as materialized (
  select * from (
   select t.task_id, 'scheduled' as was, 'pending' as after from public.agent_tasks t
    where t.status = 'scheduled' and t.queue = %(queue)s and t.run_after <= statement_timestamp()
      --if aside: and t.task_id <> all (%(aside)s::text[]::public.turbo_task_id[])
      --if only: and t.task_id = any (%(only)s::text[]::public.turbo_task_id[])
    order by t.run_after
    limit 1000
      for update skip locked) s
  union all
  select * from (
   select t.task_id, 'waiting', case t.question ->> 'then' when 'fail' then 'failed' else 'pending' end from public.agent_tasks t
    where t.status = 'waiting' and t.queue = %(queue)s and t.run_after <= statement_timestamp() and t.question ? 'then'
      --if aside: and t.task_id <> all (%(aside)s::text[]::public.turbo_task_id[])
      --if only: and t.task_id = any (%(only)s::text[]::public.turbo_task_id[])
    order by t.run_after
    limit 1000
      for update skip locked) w
--end which: ) select d.task_id::text, (select t.fencing_token from public.agent_tasks t where t.task_id = d.task_id) from due d
), promoted as (
  update public.agent_tasks t
     set status        = d.after::public.turbo_status,
         question      = case d.was when 'waiting' then t.question || '{"expired": true}' else t.question end,
         completed_at  = case d.after when 'failed' then clock_timestamp() end,
         failure_kind  = case d.after when 'failed' then 'unanswered' else t.failure_kind end,
         error_message = case d.after when 'failed' then 'nobody answered in time' else t.error_message end,
         turbo_rev     = t.turbo_rev + 1
    from due d
   -- The rows are locked, so they still rest. The array keeps this a look-up by primary key, whatever plan was
   -- made first; with the status as a condition it became a scan of all scheduled rows.
   where t.task_id = d.task_id and t.task_id = any (array(select task_id from due))
  returning t.task_id, t.queue, t.fencing_token, d.was, d.after, t.question
), audit as (
  insert into public.agent_actions (task_id, action_type, success, actor, from_status, to_status, fencing_token, detail)
  select p.task_id, case p.was when 'waiting' then 'unanswered' else 'promoted' end, p.after = 'pending', %(worker)s,
         p.was, p.after, p.fencing_token, case p.was when 'waiting' then jsonb_build_object('question', p.question) end
    from promoted p
)
select (select count(*) from promoted) as due,
       -- the first row, not min(): a plan made while the table was small reads every scheduled row for min(), and stays
       extract(epoch from least(
         (select t.run_after from public.agent_tasks t
           where t.status = 'scheduled' and t.queue = %(queue)s
             and t.run_after > statement_timestamp() and t.run_after < 'infinity'
           order by t.run_after limit 1),
         (select t.run_after from public.agent_tasks t
           where t.status = 'waiting' and t.queue = %(queue)s
             and t.run_after > statement_timestamp() and t.run_after < '8999-01-01'
           order by t.run_after limit 1)) - statement_timestamp())::float8 as next_in,
       array(select q.queue from unnest(%(queues)s::text[]) q(queue)
              where not exists (select from public.agent_queues p where p.queue = q.queue and p.paused)
                and (exists (select from promoted p where p.queue = q.queue and p.after = 'pending')
                     or (select true from public.agent_tasks t  -- not EXISTS: may be planned as a hash of all pending rows
                                 where t.status = 'pending' and t.queue = q.queue
                                   and (t.run_after <= statement_timestamp() + interval '1 second'
                                        or t.created_at > statement_timestamp() + interval '1 second') limit 1))) as runnable,
       array(select t.task_id::text from public.agent_tasks t
              where t.status = 'running' and t.assigned_worker_id = %(worker)s
                and t.cancel_requested_at is not null) as stop,
       (select jsonb_agg(jsonb_build_object('account', a.account, 'host', a.host, 'state', a.state,
                                            'reason', coalesce(a.reason, case when a.unavailable then 'unavailable' end),
                                            'probed', a.good_since is not null,
                                            'in', case when a.changed_at > statement_timestamp() + interval '1 minute'
                                                            and (a.state <> 'paused' or isfinite(a.until))
                                                            and a.state <> 'open'
                                                         then 0::numeric
                                                       when a.state = 'open' or a.state = 'paused' and not coalesce(isfinite(a.until), false)
                                                         then null
                                                       else least(greatest(extract(epoch from
                                                         case a.state when 'paused' then a.until
                                                           else coalesce(a.probe_until, a.changed_at + interval '10 seconds') end)
                                                         - extract(epoch from statement_timestamp()), -1e9), 1e9) end))
          from public.agent_accounts a
         where a.account = any (%(accounts)s::text[]) and a.host in (%(host)s, '*')) as accounts,
       pg_snapshot_xmin(n.snapshot)::text::bigint as ended_below,
       pg_snapshot_xmax(n.snapshot)::text::bigint as begun_below,
       set_config('synchronous_commit', 'off', true) as fast
  from (select pg_current_snapshot() as snapshot) n
