-- Records results: batched, fenced, idempotent. Called by the completer with live results and with spooled ones.
-- Returns one row per result: recorded | already (a replay) | late (another run has the task, or had it) | gone.
-- Whatever the answer, the result may leave the spool: what is not in the task's row is in the audit trail.
-- A late success is accepted if the task was not claimed since; that is why a rescue keeps the token.
-- needed: other tasks wait for this one, and it is over: the settler is to be told. A task that is over keeps the name of this host,
-- which has its conversation and directory: a follow-up goes there.
with input as (
  -- One JSON document: twelve arrays would cost the client four times what they save the server.
  -- Nulls, false values and this worker's own name are left out.
  select i.task_id::public.turbo_task_id as task_id, i.token, i.outcome, i.output, i.error, i.kind, i.ms,
         coalesce(i.delay, 0) as delay, coalesce(i.final, false) as final, coalesce(i.uncounted, false) as uncounted,
         i.session, coalesce(i.worker, %(worker)s) as worker, i.detail
    from json_to_recordset(%(results)s::json)
         as i(task_id text, token bigint, outcome text, output text, error text, kind text, ms bigint, delay float8,
              final bool, uncounted bool, session text, worker text, detail text)
), current as materialized (
  select t.task_id, t.status::text as was, t.fencing_token as current_token, greatest(t.retry_count, 0) as retry_count,
         coalesce(t.max_retries, 3) as max_retries, least(greatest(t.infra_count, 0), 1000000) as infra_count, t.failure_kind as had_kind,
         t.cancel_requested_at is not null as stopping, coalesce(t.cancel_to, 'cancelled') as requested, t.run_after, t.needed
    from public.agent_tasks t
   -- Arrays, here and below, stay look-ups by primary key. With a join, a plan made for an empty table later merged with
   -- the whole of it.
   where t.task_id = any (array(select a.task_id from input a))
   order by t.task_id                        -- every batch locks in the same order
     for update of t
), decided as materialized (
  -- Each result with its row. The left join also tells the planner how many rows to expect: it then updates with one
  -- look-up and a hash. A nested loop would sort the array below again for each row: 5 µs per result in a batch of 100.
  select c.*,
         c.current_token = c.token
           and (c.was = 'running'
                or c.outcome = 'succeeded' and (c.was in ('pending', 'scheduled') or c.was = 'failed' and c.had_kind = 'poison')
                or c.outcome = 'succeeded' and c.was = 'blocked')         -- put back (turbo_put_back)
         -- Or the database lost the claim and its audit row (an asynchronous failover, a crash before the WAL was flushed).
         -- Tokens grow, so a waiting row with an older token does not know this claim, and was not claimed since. If the
         -- audit trail knows the claim, its row was deleted, and this one only has the same id. A row that waits for an answer
         -- or for other tasks has lost that, too.
         or c.outcome = 'succeeded' and c.was in ('pending', 'scheduled', 'waiting', 'blocked')
            and (c.current_token is null or abs(greatest(c.current_token, -9223372036854775807)) < c.token)
            and not coalesce((select true from public.agent_actions a
                               where a.task_id = c.task_id and a.fencing_token = c.token
                                 --if checked: and a.action_type <> 'checked'
                               limit 1), false)
           as accepted,
         case
           -- a requested status overrides the result, but a cancel does not discard finished work
           when c.stopping and not (c.outcome = 'succeeded' and c.requested in ('cancelled', 'completed'))
             then public.turbo_stopped_status(c.requested::text, c.run_after::timestamptz)
           when c.outcome = 'succeeded' then 'completed'
           when c.outcome = 'cancelled' then 'cancelled'
           when c.outcome in ('auth_failed', 'usage_limited', 'unavailable') or c.uncounted
             -- both: nothing can be probed, so the task itself rests
             then case when c.outcome = 'unavailable' and c.uncounted then 'scheduled' else 'pending' end
           when c.outcome = 'infrastructure'
             then case when c.infra_count + 1 >= %(infra_cap)s then 'failed' else 'scheduled' end
           when not c.final and c.retry_count < c.max_retries then 'scheduled'
           else 'failed'
         end as becomes
    from (select i.*, t.task_id is null as gone, t.was, t.current_token, t.retry_count, t.max_retries, t.infra_count, t.had_kind,
                 t.stopping, t.requested, t.run_after, t.needed
            from input i
            left join current t on t.task_id = i.task_id) c
), done as (
  update public.agent_tasks t
     set status             = d.becomes::public.turbo_status,
         fencing_token      = - d.token,                  -- consumed: a replay answers 'already'
         output_data        = case when d.stopping and d.requested = 'completed' and t.output_data is not null then t.output_data
                                   else coalesce(d.output::jsonb, t.output_data) end,
         error_message      = case when d.becomes = 'completed' then null
                                   when d.stopping and d.outcome = 'cancelled' then t.error_message
                                   else d.error end,
         failure_kind       = case when d.becomes in ('completed', 'cancelled') then null
                                   when d.outcome = 'infrastructure' and d.becomes = 'failed' then 'poison'
                                   else d.kind end,
         execution_time_ms  = least(d.ms, 2147483647),
         retry_count        = d.retry_count + (d.outcome in ('failed', 'timed_out') and d.becomes = 'scheduled' and not d.stopping)::int,
         infra_count        = d.infra_count + (d.outcome = 'infrastructure' and not d.uncounted)::int,
         run_after          = case when d.stopping and d.becomes = 'scheduled' then t.run_after
                                   when d.becomes = 'scheduled' then clock_timestamp() + make_interval(secs => d.delay)
                                   when d.becomes = 'pending' or d.was = 'waiting' then clock_timestamp()
                                   else t.run_after end,
         completed_at       = case when d.becomes in ('completed', 'failed', 'cancelled') then clock_timestamp() end,
         assigned_worker_id = case when d.becomes in ('pending', 'scheduled') then null
                                   else coalesce(t.assigned_worker_id, d.worker) end,
         prefer_host        = case when d.becomes in ('completed', 'failed', 'cancelled') then %(host)s else t.prefer_host end,
         -- the late success of a run that was failed: whoever was cancelled because of that, or waits for a retry, is told
         needed             = case when d.was = 'failed' then true else t.needed end,
         agent_session_id   = nullif(coalesce(d.session, t.agent_session_id), ''),  -- '': do not resume it
         cancel_requested_at = null, cancel_to = null, turbo_rev = t.turbo_rev + 1
    from decided d
   where d.accepted and t.task_id = d.task_id and t.task_id = any (array(select a.task_id from decided a where a.accepted))
  returning t.task_id, d.token
), verdict as materialized (
  select d.task_id, d.token, d.outcome, d.ms, d.worker, d.error, d.output, d.detail, d.was, d.needed,
         case when d.accepted then d.becomes end as becomes,
         case
           when x.task_id is not null then 'recorded'
           -- The audit trail has this result: a replay. Or the token is consumed: by this same result, perhaps in a transaction that
           -- this snapshot does not see. If the trail shows a hand edit instead, this is the only copy of the run's output, and it
           -- is kept. One subquery for both: its plan costs each result 1 %, used or not.
           when coalesce((select bool_or(a.action_type <> 'edited') from public.agent_actions a
                           where a.task_id = d.task_id and a.fencing_token = d.token
                             and a.action_type in ('edited', 'finished', 'asked', 'late')),
                         d.current_token = - d.token) then 'already'
           when d.gone then 'gone'
           else 'late'
         end as verdict
    from decided d
    left join done x on x.task_id = d.task_id and x.token = d.token
), audit as (
  insert into public.agent_actions (task_id, action_type, success, actor, from_status, to_status, fencing_token,
                                    execution_time_ms, detail)
  select v.task_id, case v.verdict when 'recorded' then 'finished' else 'late' end, v.outcome = 'succeeded', v.worker,
         v.was, coalesce(v.becomes, v.was), v.token, least(v.ms, 2147483647),
         jsonb_strip_nulls(jsonb_build_object('outcome', v.outcome, 'error', left(v.error, 2000)))
           || coalesce(v.detail::jsonb, '{}')
           -- a result that the task's row did not take is kept here, up to the size an audit row should have
           || case when v.verdict <> 'recorded' and v.output is not null
                   then jsonb_build_object('verdict', v.verdict, 'output',
                          case when length(v.output) <= 262144 then v.output::jsonb else to_jsonb(left(v.output, 262144)) end)
                   else '{}' end
    from verdict v
   where v.verdict in ('recorded', 'late', 'gone')
)
select v.task_id::text, v.token, v.verdict, v.becomes,
       v.needed or v.was = 'failed' as needed,
       -- Whoever waits for it is told. Null: nobody waits for any task. The worker need not read this column.
       case when (select pg_sequence_last_value('public.turbo_wait_seq') is not null)
            then public.turbo_tell_who_waits(v.task_id::text, v.becomes::text) end as told
  from verdict v
