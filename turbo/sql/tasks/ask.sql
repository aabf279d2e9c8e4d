-- Records questions: the runs that ended by asking a person. Batched, fenced and idempotent, with the answers of tasks/finish.sql:
-- recorded | already | late | gone. A statement of its own, because to write `question` there would make every finish dearer.
-- Called by the completer, before that statement, for the same batch.
-- Accepted from a running claim, and from a rescued one whose task was not claimed since; also if the database lost the claim
-- (see tasks/finish.sql). A requested status is stronger than the question. Of two results of one task in a batch the newer counts.
-- Whatever the answer, the question is in the audit trail. A replay never writes over an answer, or over the next question: the
-- token is consumed, and stays so when a person answers.
-- The task counts no attempt, and is pinned to the host that has its conversation and directory. run_after is its deadline; for
-- ever is the year 9000. The question after the twentieth fails the task. needed: as in tasks/finish.sql.
with input as (
  select i.task_id::public.turbo_task_id as task_id, i.token, coalesce(i.question::jsonb, '{}') as question,
         case when i.within < 1e9 then clock_timestamp() + make_interval(secs => i.within) end as answer_by, i.output, i.ms,
         i.session, coalesce(i.worker, %(worker)s) as worker, i.detail,
         row_number() over (partition by i.task_id order by i.token desc) = 1 as newest
    from json_to_recordset(%(results)s::json)
         as i(task_id text, token bigint, question text, within float8, output text, ms bigint, session text, worker text,
              detail text)
), current as materialized (
  select t.task_id, t.status::text as was, t.fencing_token as current_token, t.cancel_requested_at is not null as stopping,
         coalesce(t.cancel_to, 'cancelled') as requested, t.run_after, t.needed,
         case jsonb_typeof(t.question -> 'number') when 'number' then least((t.question ->> 'number')::numeric, 1000)::int
                                                   else 0 end + 1 as number,
         t.question ->> 'series' as series
    from public.agent_tasks t
   where t.task_id = any (array(select a.task_id from input a))
   order by t.task_id                        -- every batch locks in the same order, as tasks/finish.sql does
     for update of t
), decided as materialized (
  select i.*, c.task_id is null as gone, c.was, c.current_token, c.stopping, c.requested, c.needed,
         i.newest
         and (c.current_token = i.token and c.was in ('running', 'pending', 'scheduled')
              or c.was in ('pending', 'scheduled', 'waiting', 'blocked')
                 and (c.current_token is null or abs(greatest(c.current_token, -9223372036854775807)) < i.token)
                 and not coalesce((select true from public.agent_actions a
                                    where a.task_id = c.task_id and a.fencing_token = i.token
                                      --if checked: and a.action_type <> 'checked'
                                    limit 1), false))
           as accepted,
         case when c.stopping then public.turbo_stopped_status(c.requested::text, c.run_after::timestamptz)
              when c.number > %(most)s then 'failed'
              else 'waiting' end as becomes,
         i.question || jsonb_strip_nulls(jsonb_build_object(
           'number', c.number, 'series', coalesce(c.series, i.token::text), 'asked_at', clock_timestamp(), 'answer_by', i.answer_by)) as shown
    from input i
    left join current c on c.task_id = i.task_id
), done as (
  update public.agent_tasks t
     set status             = d.becomes::public.turbo_status,
         fencing_token      = - d.token,                  -- consumed: a replay answers 'already'
         question           = case when d.becomes = 'waiting' then d.shown else t.question end,
         answer             = case when d.becomes = 'waiting' then null else t.answer end,
         prefer_host        = case when d.becomes in ('pending', 'scheduled') then t.prefer_host else %(host)s end,
         -- whoever stopped it may have written these
         output_data        = case when d.stopping and d.requested = 'completed' and t.output_data is not null then t.output_data
                                   else coalesce(d.output::jsonb, t.output_data) end,
         error_message      = case when d.stopping and d.becomes <> 'completed' then t.error_message
                                   when d.becomes = 'failed'
                                   then format('it has asked %%s questions, and asks another one', %(most)s::int) end,
         failure_kind       = case when d.becomes = 'failed' and not d.stopping then 'unanswered' end,
         execution_time_ms  = least(d.ms, 2147483647),
         run_after          = case when d.becomes = 'waiting' then coalesce(d.answer_by, '9000-01-01 00:00:00+00')
                                   when d.becomes = 'scheduled' then t.run_after       -- a person set it
                                   when d.becomes = 'pending' or d.was = 'waiting' then clock_timestamp()
                                   else t.run_after end,
         completed_at       = case when d.becomes in ('completed', 'failed', 'cancelled') then clock_timestamp() end,
         assigned_worker_id = case when d.becomes in ('completed', 'failed', 'cancelled')
                                   then coalesce(t.assigned_worker_id, d.worker) end,
         agent_session_id   = nullif(coalesce(d.session, t.agent_session_id), ''),
         cancel_requested_at = null, cancel_to = null, turbo_rev = t.turbo_rev + 1
    from decided d
   where d.accepted and t.task_id = d.task_id and t.task_id = any (array(select a.task_id from decided a where a.accepted))
  returning t.task_id, d.token
), verdict as materialized (
  select d.*,
         case
           when x.task_id is not null then 'recorded'
           when d.current_token = - d.token
                and not coalesce((select true from public.agent_actions a
                                 where a.task_id = d.task_id and a.fencing_token = d.token and a.action_type = 'edited' limit 1), false)
             or (select true from public.agent_actions a
                  where a.task_id = d.task_id and a.fencing_token = d.token
                    and a.action_type in ('asked', 'finished', 'late') limit 1) then 'already'
           when d.gone then 'gone'
           else 'late'
         end as verdict
    from decided d
    left join done x on x.task_id = d.task_id and x.token = d.token
), audit as (
  insert into public.agent_actions (task_id, action_type, success, actor, from_status, to_status, fencing_token,
                                    execution_time_ms, detail)
  select v.task_id, case v.verdict when 'recorded' then 'asked' else 'late' end, true, v.worker, v.was,
         case v.verdict when 'recorded' then v.becomes else v.was end, v.token, least(v.ms, 2147483647),
         coalesce(v.detail::jsonb, '{}') || jsonb_build_object('outcome', 'asked', 'question', v.shown)
           || case when v.verdict <> 'recorded'
                   then jsonb_strip_nulls(jsonb_build_object('verdict', v.verdict, 'output',
                          case when length(v.output) <= 262144 then v.output::jsonb else to_jsonb(left(v.output, 262144)) end))
                   else '{}' end
    from verdict v
   where v.verdict in ('recorded', 'late', 'gone')
)
select v.task_id::text, v.token, v.verdict, case v.verdict when 'recorded' then v.becomes end as becomes,
       v.needed and v.verdict = 'recorded' and v.becomes in ('completed', 'failed', 'cancelled') as needed,
       case when v.verdict = 'recorded' then public.turbo_tell_who_waits(v.task_id::text, v.becomes::text) end as told
  from verdict v
