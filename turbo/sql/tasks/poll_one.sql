-- The poll of one queue: tasks/poll.sql, whose head explains it, without the steps over several queues. They would cost it 9 %.
with due as materialized (
  select t.task_id from public.agent_tasks t
   where t.status = 'scheduled' and t.queue = %(queue)s and t.run_after <= statement_timestamp()
     --if aside: and t.task_id <> all (%(aside)s::text[]::public.turbo_task_id[])
     --if only: and t.task_id = any (%(only)s::text[]::public.turbo_task_id[])
   order by t.run_after
   limit 1000
     for update skip locked
--end which: ) select d.task_id::text, (select t.fencing_token from public.agent_tasks t where t.task_id = d.task_id) from due d
), promoted as (
  update public.agent_tasks t
     set status = 'pending', turbo_rev = t.turbo_rev + 1
   -- The rows are locked, so they still rest. The array keeps this a look-up by primary key, whatever plan was
   -- made first; with the status as a condition it became a scan of all scheduled rows.
   where t.task_id = any (array(select task_id from due))
  returning t.task_id, t.queue, t.fencing_token
), audit as (
  insert into public.agent_actions (task_id, action_type, success, actor, from_status, to_status, fencing_token)
  select p.task_id, 'promoted', true, %(worker)s, 'scheduled', 'pending', p.fencing_token
    from promoted p
)
select (select count(*) from promoted) as due,
       -- the first row, not min(): a plan made while the table was small reads every scheduled row for min(), and stays
       (select extract(epoch from t.run_after - statement_timestamp())::float8 from public.agent_tasks t
         where t.status = 'scheduled' and t.queue = %(queue)s
           and t.run_after > statement_timestamp() and t.run_after < 'infinity'
         order by t.run_after limit 1) as next_in,
       (select extract(epoch from t.run_after - statement_timestamp())::float8 from public.agent_tasks t
         where t.status = 'waiting' and t.queue = %(queue)s and t.run_after < '8999-01-01'
         order by t.run_after limit 1) as deadline_in,
       case when exists (select from public.agent_portable)
            then public.turbo_stay_in(%(queues)s::text[], %(host)s::text, %(stay)s::double precision) end as stay_in,
       array(select q.queue from unnest(%(queues)s::text[]) q(queue)
              where not exists (select from public.agent_queues p where p.queue = q.queue and p.paused)
                and (exists (select from promoted p where p.queue = q.queue)
                     or (select true from public.agent_tasks t  -- not EXISTS: may be planned as a hash of all pending rows
                                 where t.status = 'pending' and t.queue = q.queue
                                   and (t.run_after <= statement_timestamp() + interval '1 second'
                                        or t.created_at > statement_timestamp() + interval '1 second') limit 1))) as runnable,
       array(select t.task_id::text from public.agent_tasks t
              where t.status = 'running' and t.assigned_worker_id = %(worker)s
                and t.cancel_requested_at is not null) as stop,
       (select jsonb_agg(jsonb_build_object('account', a.account, 'host', a.host, 'state', a.state,
                                            'reason', case when a.reason = 'manual' and a.unavailable then 'credits' else coalesce(a.reason, case when a.unavailable then 'unavailable' end) end,
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
       public.turbo_unsettled() as unsettled,
       exists (select from public.agent_messages m where m.delivered_at is null) as messages,
       exists (select from public.agent_conversations) as conversations,
       exists (select from public.agent_limits) as limits,
       (select coalesce(extract(epoch from s.next_at - statement_timestamp()), 0)::float8 from public.agent_schedules s
         where s.enabled and (s.next_at is not null or s.error is null) order by s.next_at nulls first limit 1) as schedule_in,
       extract(epoch from statement_timestamp())::float8 as clock,
       case when exists (select from public.agent_budgets) then public.turbo_budgets(null::timestamptz, '1 s'::interval, null::text[]) end as budgets,
       pg_snapshot_xmin(n.snapshot)::text::bigint as ended_below,
       pg_snapshot_xmax(n.snapshot)::text::bigint as begun_below,
       set_config('synchronous_commit', 'off', true) as fast
  from (select pg_current_snapshot() as snapshot) n
