-- turbo: compatible-from 3
-- Programs that wait for tasks, and traces. turbo_wait(task_id) registers one; while it is registered, whatever ends or stops the task sends one
-- notification to it. A worker from before sends none, and a notification can be lost: whoever waits also looks every few seconds.
--
--   register ──▶ LISTEN ──▶ look at the row ──▶ wait for the notification, or for the next look
--
-- A transaction that ends the task may have looked for waiters just before this one was registered, and commit long after. So a waiter
-- that was registered reads pg_current_snapshot(), and looks often until the transactions that are open in it are over
-- (turbo/sql/client/open_transactions.sql). Each later one takes its transaction id, and only then looks for waiters.

-- A table or a column of such a name that is there already is the deployment's own, and means something else: nothing is changed then.
do $$
begin
  if to_regclass('public.agent_waiters') is not null
     and coalesce(obj_description(to_regclass('public.agent_waiters'), 'pg_class'), '') not like '%(turbo)' then
    raise exception 'there is a table agent_waiters already, and turbo needs one of this name for itself'
      using errcode = 'duplicate_table',
      hint = 'Rename it (ALTER TABLE public.agent_waiters RENAME TO ...) and run turbo migrate again.';
  end if;
  if exists (select from pg_attribute a
              where a.attrelid = 'public.agent_tasks'::regclass and a.attname = 'traceparent' and not a.attisdropped
                and coalesce(col_description(a.attrelid, a.attnum), '') not like '%(turbo)') then
    raise exception 'agent_tasks has columns that turbo needs for itself: traceparent' using errcode = 'duplicate_column',
      hint = 'Rename them (ALTER TABLE public.agent_tasks RENAME COLUMN ... TO ...) and run turbo migrate again.';
  end if;
end $$;

-- The trace that a task belongs to. Nothing judges it when it is written: a condition in the trigger would cost every insert, and rows can
-- come past the triggers. Whoever reads it checks its form, and takes any other text for none (turbo/sql/tasks/trace.sql).
alter table public.agent_tasks add column if not exists traceparent text;
comment on column public.agent_tasks.traceparent is
  'the trace of whoever inserted the task, in the form of W3C trace context; any other text counts as none (turbo)';

-- Not logged: after a crash or a failover it is empty, and those who wait have lost their sessions, and register again.
create unlogged table if not exists public.agent_waiters (
  task_id public.turbo_task_id not null,
  channel text not null,                         -- of whoever waits
  lapses  timestamptz not null,
  primary key (task_id, channel)
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
comment on table public.agent_waiters is 'who waits for which task, until when; written by turbo_wait (turbo)';
-- Of those who left, for turbo_wait, which removes them.
create index if not exists agent_waiters_lapses on public.agent_waiters (lapses);

-- The gate. Its last value is null while nobody waits for any task; else it is until when somebody does, in seconds since 1970, or a little
-- later. A sequence, because that is one look into a page: a query made a result 5 % dearer. What is written to it is seen at once.
create sequence if not exists public.turbo_wait_seq;
comment on sequence public.turbo_wait_seq is 'until when somebody waits for a task, in seconds since 1970; null: nobody does (turbo)';
revoke all on sequence public.turbo_wait_seq from public;

-- Registers a waiter for 60 seconds, and returns the channel to LISTEN on. Call it again to go on waiting. `channel`: 1 to 32 of a-z 0-9,
-- the caller's own name for it, as to wait for several tasks on one channel; left out, it is a new one. Wait for the commit of this before
-- you look at the task: SELECT public.turbo_wait('my_task_1'), LISTEN, SELECT status, then wait.
create or replace function public.turbo_wait(task_id text, channel text default null) returns text
language plpgsql security definer set search_path = pg_catalog, pg_temp set enable_seqscan = off as $$
declare
  own text := 'turbo_done_' || coalesce(channel, left(replace(gen_random_uuid()::text, '-', ''), 24));
  until constant float8 := date_part('epoch', clock_timestamp()) + 60;
begin
  if channel !~ '^[a-z0-9]{1,32}$' then
    raise exception 'channel % is not a name for a channel', public.turbo_shown(channel::text, 60::integer) using errcode = 'check_violation',
      hint = 'Write 1 to 32 of a-z 0-9, or leave it out for a new one.';
  end if;
  if task_id is null or octet_length(task_id) > 2048 then
    raise exception 'task_id is empty, or longer than 2048 bytes' using errcode = 'check_violation', hint = 'Write the id of a task.';
  end if;
  -- Nobody closes the gate before the commit of this: see turbo_tell_who_waits.
  perform pg_try_advisory_xact_lock_shared(1953985653, 0);
  if coalesce(pg_sequence_last_value('public.turbo_wait_seq'), 0) < until then
    perform setval('public.turbo_wait_seq', ceil(until)::bigint + 30);      -- ahead, so that not every call writes it
  end if;
  insert into public.agent_waiters as w (task_id, channel, lapses)
  values (turbo_wait.task_id::public.turbo_task_id, own, to_timestamp(until))
  on conflict on constraint agent_waiters_pkey do update set lapses = excluded.lapses;
  if random() < 0.05 then      -- those who left
    delete from public.agent_waiters w
     where w.ctid = any (array(select l.ctid from public.agent_waiters l
                                where l.lapses < statement_timestamp() - interval '60 seconds' order by l.lapses limit 1000
                                  for update skip locked));
  end if;
  return own;
end $$;
revoke all on function public.turbo_wait(text, text) from public;

-- A task has become `status`: if it has ended, or asks, whoever waits for it is told. A transaction with an old snapshot cannot see who
-- waits, so it tells all of them, on a channel of their own. Whoever finds the gate open after its time closes it: a lock for a moment keeps it
-- from closing on somebody who is just registering. Another session that has the lock for itself keeps it open.
create or replace function public.turbo_tell_who_waits(task_id text, status text) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp set enable_seqscan = off as $$
declare
  shown constant text := case when octet_length(task_id) < 7900 then task_id else '' end;
begin
  if status is null or status not in ('completed', 'failed', 'cancelled', 'waiting')
     or pg_sequence_last_value('public.turbo_wait_seq') is null then return; end if;
  if pg_sequence_last_value('public.turbo_wait_seq') < date_part('epoch', clock_timestamp()) then
    if pg_try_advisory_lock(1953985653, 0) then
      if pg_sequence_last_value('public.turbo_wait_seq') < date_part('epoch', clock_timestamp()) then
        perform setval('public.turbo_wait_seq', 1, false);
      end if;
      perform pg_advisory_unlock(1953985653, 0);
    end if;
    return;
  end if;
  if current_setting('turbo.notify', true) = 'off' or pg_notification_queue_usage() > 0.5 then return; end if;
  if current_setting('transaction_isolation') <> 'read committed' then
    perform pg_notify('turbo_done', shown);
    return;
  end if;
  perform pg_notify(w.channel, shown)
     from public.agent_waiters w
    where w.task_id = turbo_tell_who_waits.task_id::public.turbo_task_id and w.lapses > statement_timestamp();
end $$;
revoke all on function public.turbo_tell_who_waits(text, text) from public;

-- As before, but for who waits: tasks were deleted. What retention deletes is over, and they were told.
create or replace function public.turbo_note_delete() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  by_whom name := case current_setting('role') when 'none' then session_user else current_setting('role')::name end;
  -- A deployment's trail may refer to the task. A line that still does would refuse the deletion.
  refers  boolean := exists (select from pg_constraint k
                              where k.conrelid = 'public.agent_actions'::regclass and k.confrelid = tg_relid and k.contype = 'f');
  told    jsonb := jsonb_strip_nulls(jsonb_build_object(
                     'application', nullif(current_setting('application_name'), ''), 'client', host(inet_client_addr())));
begin
  if current_query() like '/* turbo retention/tasks%' and has_column_privilege(by_whom, tg_relid, 'turbo_rev', 'update') then
    return null;
  end if;
  if pg_sequence_last_value('public.turbo_wait_seq') is not null then
    if tg_op <> 'TRUNCATE' then perform public.turbo_tell_who_waits(g.task_id::text, 'cancelled'::text) from gone g;
    elsif current_setting('turbo.notify', true) is distinct from 'off' and pg_notification_queue_usage() <= 0.5 then
      perform pg_notify('turbo_done', '');
    end if;
  end if;
  begin
    if tg_op = 'TRUNCATE' then
      insert into public.agent_actions (action_type, success, actor, detail)
      values ('deleted', true, session_user, told || '{"truncated": true}');
    elsif refers then
      insert into public.agent_actions (action_type, success, actor, from_status, detail)
      select 'deleted', true, session_user, g.status::text, told || jsonb_build_object('task_id', g.task_id) from gone g;
    else
      insert into public.agent_actions (task_id, action_type, success, actor, from_status, detail)
      select g.task_id, 'deleted', true, session_user, g.status::text, told from gone g;
    end if;
  exception when integrity_constraint_violation then       -- a rule of the deployment's own trail
    raise warning 'the deletion is not in the audit trail: %', sqlerrm;
  end;
  return null;
end $$;

-- As before, but for turbo_tell_who_waits: a person ended the task, or held it.
create or replace function public.turbo_judge_update() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  adopted boolean := tg_argv[0]::boolean;
  asked   text    := new.status::text;
  was     text    := old.status::text;
  ours    boolean := old.fencing_token is not null;
  live    boolean := old.status::text = 'running' and coalesce(old.fencing_token, 0) > 0;
  resting constant text[] := array['scheduled', 'pending', 'blocked', 'waiting', 'completed', 'failed', 'cancelled'];
  final   constant text[] := array['completed', 'failed', 'cancelled'];
  texts   constant text[] := array['task_description', 'input_data', 'output_data', 'error_message'];
  known   constant text[] := array[
    'task_id', 'task_type', 'task_description', 'task_priority', 'input_data', 'status', 'output_data', 'error_message',
    'execution_time_ms', 'assigned_worker_id', 'timeout_seconds', 'max_retries', 'retry_count', 'created_at', 'started_at',
    'completed_at', 'queue', 'run_after', 'fencing_token', 'idempotency_key', 'concurrency_key', 'agent_session_id', 'failure_kind',
    'cancel_requested_at', 'cancel_to', 'infra_count', 'turbo_rev', 'question', 'answer', 'prefer_host',
    'needs', 'on_needs_failed', 'parent_task_id', 'continues', 'needed', 'conversation', 'submitted_by', 'traceparent'];
  written text[];       -- by the person, before this function changes anything
  own     text;         -- a column of the deployment's own
  differs boolean;
  shown   jsonb;        -- the question that this update leaves without an answer
  latest  timestamptz;
  work    boolean;      -- it waits for others, or did
  waiters bigint;
  told    jsonb;
  by_whom name    := case current_setting('role') when 'none' then session_user else current_setting('role')::name end;
  consumed bigint := case when old.fencing_token > 0 then - old.fencing_token else old.fencing_token end;   -- answers for no result
begin
  if new.turbo_rev is distinct from old.turbo_rev then
    raise exception 'task % has changed since it was read: its turbo_rev is %, not %',
      public.turbo_shown(old.task_id::text, 200::integer), old.turbo_rev, coalesce(new.turbo_rev::text, 'null') using errcode = 'serialization_failure',
      hint = 'Read the row again, and write only the columns that you change; leave turbo_rev out of the UPDATE.';
  end if;
  new.question := nullif(new.question, 'null');     -- what some mappers write for none
  if new.question is distinct from old.question then
    raise exception 'question is turbo''s own' using errcode = 'check_violation',
      hint = 'Leave it out of the UPDATE. To answer it: SET answer = ''...''.';
  end if;
  new.needs := nullif(new.needs, '{}');
  if num_nonnulls(new.needs, new.continues, new.on_needs_failed, new.needed, new.conversation,
                  old.needs, old.continues, old.on_needs_failed, old.needed, old.conversation) > 0 then
    if new.needed is distinct from old.needed or new.conversation is distinct from old.conversation then
      raise exception 'needed and conversation are turbo''s own' using errcode = 'check_violation',
        hint = 'Leave both out of the UPDATE.';
    end if;
    if new.continues is distinct from old.continues or new.needs is distinct from old.needs and new.needs is not null
       or coalesce(new.on_needs_failed, 'cancel') is distinct from coalesce(old.on_needs_failed, 'cancel') then
      raise exception 'needs, on_needs_failed and continues of task % cannot change', public.turbo_shown(old.task_id::text, 200::integer) using errcode = 'check_violation',
        hint = 'SET needs = NULL: it waits for nothing any more. For other needs insert another task.';
    end if;
  end if;
  if new.idempotency_key is distinct from old.idempotency_key and new.idempotency_key ~ '^(schedule|message) ' then
    raise exception 'idempotency keys that begin with % are turbo''s own',
      quote_literal(substring(new.idempotency_key from '^[a-z]+ ')) using errcode = 'check_violation', hint = 'Write another key.';
  end if;
  if new.answer is distinct from old.answer then      -- the rest of its rules: turbo_take_answer
    if was is distinct from 'waiting' or old.question is null then
      raise exception 'task % does not wait for an answer: it %', public.turbo_shown(old.task_id::text, 200::integer),
        case when was = 'waiting' then 'was asked nothing' else 'is ' || was end using errcode = 'object_not_in_prerequisite_state',
        hint = 'Somebody answered before, or its time is over. SELECT task_id, question FROM agent_tasks WHERE status = ''waiting'' shows who waits.';
    end if;
    if asked is distinct from was then
      raise exception 'answer task % or change its status, not both at once', public.turbo_shown(old.task_id::text, 200::integer) using errcode = 'check_violation',
        hint = 'Write only: SET answer = ''...''.';
    end if;
  end if;
  written := array_remove(array[
    case when new.task_id             is distinct from old.task_id             then 'task_id' end,
    case when new.task_type           is distinct from old.task_type           then 'task_type' end,
    case when new.task_description    is distinct from old.task_description    then 'task_description' end,
    case when new.task_priority       is distinct from old.task_priority       then 'task_priority' end,
    case when new.input_data::text    is distinct from old.input_data::text    then 'input_data' end,
    case when new.output_data::text   is distinct from old.output_data::text   then 'output_data' end,
    case when new.error_message       is distinct from old.error_message       then 'error_message' end,
    case when new.execution_time_ms   is distinct from old.execution_time_ms   then 'execution_time_ms' end,
    case when new.assigned_worker_id  is distinct from old.assigned_worker_id  then 'assigned_worker_id' end,
    case when new.timeout_seconds     is distinct from old.timeout_seconds     then 'timeout_seconds' end,
    case when new.max_retries         is distinct from old.max_retries         then 'max_retries' end,
    case when new.retry_count         is distinct from old.retry_count         then 'retry_count' end,
    case when new.created_at          is distinct from old.created_at          then 'created_at' end,
    case when new.started_at          is distinct from old.started_at          then 'started_at' end,
    case when new.completed_at        is distinct from old.completed_at        then 'completed_at' end,
    case when new.queue               is distinct from old.queue               then 'queue' end,
    case when new.run_after           is distinct from old.run_after           then 'run_after' end,
    case when new.idempotency_key     is distinct from old.idempotency_key     then 'idempotency_key' end,
    case when new.concurrency_key     is distinct from old.concurrency_key     then 'concurrency_key' end,
    case when new.agent_session_id    is distinct from old.agent_session_id    then 'agent_session_id' end,
    case when new.failure_kind        is distinct from old.failure_kind        then 'failure_kind' end,
    case when new.cancel_requested_at is distinct from old.cancel_requested_at then 'cancel_requested_at' end,
    case when new.cancel_to           is distinct from old.cancel_to           then 'cancel_to' end,
    case when new.infra_count         is distinct from old.infra_count         then 'infra_count' end,
    case when new.prefer_host         is distinct from old.prefer_host         then 'prefer_host' end,
    case when new.needs               is distinct from old.needs               then 'needs' end,
    case when new.on_needs_failed     is distinct from old.on_needs_failed     then 'on_needs_failed' end,
    case when record_image_ne(row(new.parent_task_id), row(old.parent_task_id)) then 'parent_task_id' end,
    case when new.traceparent         is distinct from old.traceparent         then 'traceparent' end,
    case when new.submitted_by        is distinct from old.submitted_by        then 'submitted_by' end], null);
  -- By their bytes: not every type has an equality, and the text of a float or a date is what the session's settings make of
  -- it. A generated column is computed after this.
  for own in
    select a.attname from pg_attribute a
     where a.attrelid = tg_relid and a.attnum > 0 and not a.attisdropped and a.attgenerated = '' and a.attname <> all (known)
     order by a.attnum
  loop
    execute format('select record_image_ne(row(($1).%1$I), row(($2).%1$I))', own) into differs using old, new;
    if differs then written := array_append(written, own); end if;
  end loop;
  if written <> '{}' then
    told := jsonb_strip_nulls(jsonb_build_object(
      'columns', written, 'application', nullif(current_setting('application_name'), ''), 'client', host(inet_client_addr()),
      'bytes', case when written && texts then
        (select jsonb_object_agg(c.name, jsonb_build_array(c.was, c.is_now))
           from (values ('task_description', octet_length(old.task_description), octet_length(new.task_description)),
                        ('input_data', octet_length(old.input_data::text), octet_length(new.input_data::text)),
                        ('output_data', octet_length(old.output_data::text), octet_length(new.output_data::text)),
                        ('error_message', octet_length(old.error_message), octet_length(new.error_message))) c(name, was, is_now)
          where c.name = any (written)) end));
  end if;

  -- A task that began or ended in the future would be among the latest until then, and retention would keep it. An old poller
  -- may write the local time of another zone into a column without one.
  latest := clock_timestamp() + (case when adopted then interval '1 day' else interval '0' end);
  if new.completed_at is distinct from old.completed_at and (new.completed_at > latest or new.completed_at = '-infinity') then
    new.completed_at := clock_timestamp();
  end if;
  if new.started_at is distinct from old.started_at and (new.started_at > latest or new.started_at = '-infinity') then
    new.started_at := clock_timestamp();
  end if;

  -- Its host was not told of it: others may run it now.
  if new.prefer_host is distinct from old.prefer_host and asked = 'pending' then perform public.turbo_wake(new.queue::text); end if;

  if new.status is not distinct from old.status and new.queue is not distinct from old.queue
     and new.task_id is not distinct from old.task_id and new.run_after is not distinct from old.run_after
     and new.concurrency_key is not distinct from old.concurrency_key
     and new.fencing_token is not distinct from old.fencing_token
     and new.agent_session_id is not distinct from old.agent_session_id
     and new.needs is not distinct from old.needs
     and not (live and new.assigned_worker_id is distinct from old.assigned_worker_id)
  then                          -- nothing that turbo stands on
    -- Without a status and a token: such a line answers for no run.
    if written <> '{}'
       and (ours or was = any (resting) or not has_column_privilege(by_whom, tg_relid, 'assigned_worker_id', 'update')) then
      insert into public.agent_actions (task_id, action_type, success, actor, detail)
      select old.task_id, 'edited', true, session_user, told;
    end if;
    return new;
  end if;

  if new.task_id is distinct from old.task_id then
    if live then
      raise exception 'task % is running: its task_id cannot change', public.turbo_shown(old.task_id::text, 200::integer) using errcode = 'object_in_use',
        hint = 'Cancel it first (UPDATE ... SET status = ''cancelled''), or wait for it to finish.';
    end if;
    if num_nonnulls(old.needs, old.continues, old.needed, old.conversation) > 0 then
      raise exception 'task % belongs to others: its task_id cannot change', public.turbo_shown(old.task_id::text, 200::integer) using errcode = 'object_in_use',
        hint = 'Others name it, or it names others. Insert another task.';
    end if;
    if new.task_id is null or new.task_id::text !~ '[^[:space:]]' or octet_length(new.task_id::text) > 2048 then
      raise exception 'task_id is empty, or longer than 2048 bytes' using errcode = 'check_violation',
        hint = 'Write a shorter id, or a hash of it: md5(...).';
    end if;
  end if;
  if asked is null or not (asked = any (resting) or asked = 'running' or adopted and (not ours or was = 'pending')) then
    raise exception 'unknown status %', coalesce(quote_literal(asked), 'null') using errcode = 'check_violation',
      hint = 'Write ''pending'' to run the task again, ''waiting'' to hold it, ''cancelled'' to cancel it, ''completed'' or ''failed'' to close it.';
  end if;
  if new.queue is distinct from old.queue and (new.queue is null or new.queue !~ '^[a-z0-9_-]{1,40}$') then
    raise exception 'queue % is not a queue name', coalesce(quote_literal(left(new.queue, 60)), 'null') using errcode = 'check_violation',
      hint = 'A queue is 1 to 40 of a-z 0-9 _ -.';
  end if;
  if new.run_after is distinct from old.run_after and not isfinite(new.run_after) then
    raise exception 'run_after is %', new.run_after using errcode = 'check_violation',
      hint = 'Write a moment, as in now() + interval ''1 year''.';
  end if;

  if new.fencing_token is distinct from old.fencing_token
     or new.agent_session_id is distinct from old.agent_session_id and new.agent_session_id is not null then
    raise exception 'fencing_token and agent_session_id are turbo''s own' using errcode = 'check_violation',
      hint = 'Leave both out of the UPDATE. To forget an agent''s session, set agent_session_id to null.';
  end if;

  -- A row that turbo never claimed may be an old poller's, still at work beside turbo. What only such a poller does
  -- (running on either side, a status of its own, its own count of retries) passes untouched.
  work := num_nonnulls(old.needs, old.continues) > 0;
  if not ours and not (work and was = 'blocked')
     and (not (was = any (resting) and asked = any (resting)) or new.retry_count is distinct from old.retry_count
          or adopted and 'blocked' in (was, asked) and not work) then
    -- It is not told either, unless this role cannot be a poller: it may not write what a claim writes.
    if asked = was and was = any (resting) and written && texts
       or not has_column_privilege(by_whom, tg_relid, 'assigned_worker_id', 'update') then
      insert into public.agent_actions (task_id, action_type, success, actor, detail)
      select old.task_id, 'edited', true, session_user, coalesce(told, '{}') || jsonb_build_object('asked', asked);
    end if;
    if asked <> was then perform public.turbo_tell_who_waits(old.task_id::text, asked::text); end if;
    return new;
  end if;

  if live and asked = was and new.assigned_worker_id is distinct from old.assigned_worker_id then
    raise exception 'task % is running on %', public.turbo_shown(old.task_id::text, 200::integer), public.turbo_shown(old.assigned_worker_id::text, 100::integer) using errcode = 'object_in_use',
      hint = 'A worker has claimed it meanwhile. Whoever claims beside it must ask: UPDATE ... WHERE task_id = ... AND status = ''pending''.';
  end if;
  if live and new.concurrency_key is distinct from old.concurrency_key then
    raise exception 'task % is running: its concurrency_key cannot change', public.turbo_shown(old.task_id::text, 200::integer) using errcode = 'object_in_use',
      hint = 'Cancel it first (UPDATE ... SET status = ''cancelled''), or wait for it to finish.';
  end if;

  if old.needs is not null and new.needs is null then          -- it waits for nothing any more
    perform public.turbo_untie(old.task_id::text, 'all'::text);
    if asked = 'blocked' and was = 'blocked' then perform public.turbo_note_work(old.task_id::text); end if;
  end if;

  if asked = was then
    -- Only run_after, queue or key changed: a pending row that is put off leaves the claim index, and comes back. While a row
    -- waits, run_after is the deadline of its question; a held task's own moment is in the hold.
    if was = 'waiting' and new.run_after is distinct from old.run_after then
      if old.question ->> 'kind' = 'hold' then
        new.question  := new.question || jsonb_build_object('run_after', new.run_after);
        new.run_after := old.run_after;
      elsif new.run_after <= (old.question ->> 'asked_at')::timestamptz then    -- as in a save of what was read before it asked
        raise exception 'run_after is %, and task % has asked at %', new.run_after, public.turbo_shown(old.task_id::text, 200::integer), old.question ->> 'asked_at'
          using errcode = 'check_violation',
          hint = 'Write a later moment: run_after is the deadline of an answer. To let it go on without one: SET status = ''pending''.';
      else
        new.question := new.question || jsonb_build_object('answer_by', new.run_after);
      end if;
    end if;
    if was = 'pending' and new.run_after > now() then new.status := 'scheduled';
    elsif was = 'scheduled' and new.run_after <= now() then new.status := 'pending';
    end if;
    if new.status is not distinct from old.status then
      insert into public.agent_actions (task_id, action_type, success, actor, detail)
      select old.task_id, 'edited', true, session_user, told;
      return new;
    end if;
    asked := new.status::text;

  elsif live and asked in ('blocked', 'waiting') then
    raise exception 'task % is running on %: it cannot be held', public.turbo_shown(old.task_id::text, 200::integer), public.turbo_shown(old.assigned_worker_id::text, 100::integer) using errcode = 'object_in_use',
      hint = 'Write ''cancelled'' to stop it, or ''pending'' to stop it and run it again.';

  elsif live then
    -- The agent is alive. The row, and its concurrency_key, stay its own until its worker says that it is gone.
    new.status              := old.status;
    new.cancel_to           := asked;
    new.cancel_requested_at := clock_timestamp();
    new.assigned_worker_id  := old.assigned_worker_id;
    new.started_at          := old.started_at;
    new.completed_at        := old.completed_at;
    raise notice 'task % is running on %: its agent is being stopped, then the task becomes %', public.turbo_shown(old.task_id::text, 200::integer), public.turbo_shown(old.assigned_worker_id::text, 100::integer), asked;
    if current_setting('turbo.notify', true) is distinct from 'off' and pg_notification_queue_usage() <= 0.5 then
      perform pg_notify('turbo_ctl', 'stop ' || left(old.assigned_worker_id, 255));
    end if;

  elsif asked <> all (resting) then
    if was <> 'pending' then
      raise exception 'task % cannot be set to running by hand', public.turbo_shown(old.task_id::text, 200::integer) using errcode = 'check_violation',
        hint = 'Write ''pending'': a worker claims it and sets ''running''.';
    end if;
    new.fencing_token := null;     -- an old poller's claim, by this name or another: from here on the row is its own
    if not has_column_privilege(by_whom, tg_relid, 'assigned_worker_id', 'update') then
      insert into public.agent_actions (task_id, action_type, success, actor, detail)
      select old.task_id, 'edited', true, session_user, jsonb_build_object('asked', asked) || coalesce(told, '{}');
    end if;
    return new;

  elsif asked = any (final) then
    new.completed_at  := case when new.completed_at is not distinct from old.completed_at and was <> all (final)
                              then clock_timestamp() else new.completed_at end;
    new.fencing_token := consumed;      -- a result still in some spool must not answer for this
    if was = 'waiting' and new.run_after is not distinct from old.run_after then new.run_after := clock_timestamp(); end if;
    if 'completed' in (asked, was) and was = any (final) then   -- what was cancelled because of it waits again, or what has counted it
      perform public.turbo_note_need(old.task_id::text);
    end if;
    if old.needed is not null then perform public.turbo_tell_settler(); else perform public.turbo_tell_of_messages(old.task_id::text); end if;

  elsif asked = 'waiting' then
    if was = any (final) then
      raise exception 'task % is over: it cannot be held', public.turbo_shown(old.task_id::text, 200::integer) using errcode = 'check_violation',
        hint = 'Write ''pending'' to run it again.';
    end if;
    -- a save of every column that was read while the task waited
    if new.run_after is distinct from old.run_after
       and date_trunc('milliseconds', new.run_after)
           in ('9000-01-01 00:00:00+00', date_trunc('milliseconds', (old.question ->> 'answer_by')::timestamptz)) then
      raise exception 'task % has changed since it was read: it does not wait any more', public.turbo_shown(old.task_id::text, 200::integer) using errcode = 'serialization_failure',
        hint = 'Read the row again, and write only the columns that you change. To hold the task: SET status = ''waiting''.';
    end if;
    new.question      := public.turbo_hold(new.task_description::text, new.run_after::timestamptz, old.question::jsonb, old.answer::text);
    new.answer        := null;
    new.run_after     := '9000-01-01 00:00:00+00';
    new.fencing_token := consumed;

  elsif asked = 'blocked' and num_nonnulls(new.needs, new.continues) = 0 then
    raise exception 'task % waits for no other task: it cannot be blocked', public.turbo_shown(old.task_id::text, 200::integer) using errcode = 'check_violation',
      hint = 'Write ''waiting'' to hold it until a person releases it.';

  else   -- pending, scheduled or blocked: run it (again)
    -- A task that waits for others waits again: what one statement retries together runs in its order. So does a hold that is
    -- released. Only a blocked one that a person sets to pending runs without waiting.
    work := num_nonnulls(new.needs, new.continues) > 0
            and (asked = 'blocked' or was = any (final) or was = 'waiting' and old.question ->> 'kind' = 'hold');
    if not work and num_nonnulls(new.conversation, new.continues) > 0 and new.queue = any (public.turbo_older_queues()) then
      work := true;             -- an older worker's claim would run it beside its conversation, or fail it for that
      raise notice 'task % stays blocked while an older worker serves queue %', public.turbo_shown(old.task_id::text, 200::integer), public.turbo_shown(new.queue::text, 60::integer);
    end if;
    if was = 'waiting' then
      if old.question ->> 'kind' = 'hold' then
        if new.run_after is not distinct from old.run_after then
          new.run_after := coalesce((old.question ->> 'run_after')::timestamptz, now());
        end if;
        new.answer   := old.question ->> 'held_answer';
        new.question := old.question -> 'held';
      else                                        -- it goes on without an answer; an approval is denied
        if new.run_after is not distinct from old.run_after then new.run_after := now(); end if;
        shown        := old.question;
        new.question := old.question || '{"expired": true}';
      end if;
      if new.run_after > now() then new.status := 'scheduled'; else new.status := 'pending'; new.run_after := now(); end if;
    elsif asked = 'blocked' then null;
    elsif asked = 'pending' then
      if new.run_after is distinct from old.run_after and new.run_after > now() then new.status := 'scheduled';
      else new.run_after := now();
      end if;
    elsif new.run_after <= now() then
      new.status := 'pending'; new.run_after := now();
    end if;
    if was = any (final) then
      if new.retry_count       is not distinct from old.retry_count       then new.retry_count := 0; end if;
      if new.error_message     is not distinct from old.error_message     then new.error_message := null; end if;
      if new.output_data       is not distinct from old.output_data       then new.output_data := null; end if;
      new.infra_count := 0; new.failure_kind := null;
      new.completed_at := null; new.started_at := null; new.assigned_worker_id := null; new.execution_time_ms := null;
      new.question := null; new.answer := null; new.prefer_host := null;
    end if;
    if work then
      new.status := 'blocked';
      perform public.turbo_untie(old.task_id::text, 'anew'::text);
    end if;
    if was = 'blocked' and new.conversation is not null and new.status::text <> 'blocked' then      -- where the conversation is
      new.prefer_host := coalesce(new.prefer_host, public.turbo_host_before(old.task_id::public.turbo_task_id));
    end if;
    if work or was = 'blocked' and new.continues is not null then       -- it has a place in its conversation first
      perform public.turbo_note_work(old.task_id::text);
    end if;
    if was = any (final) then perform public.turbo_note_need(old.task_id::text); end if;
    new.cancel_requested_at := null; new.cancel_to := null;
    new.fencing_token := consumed;      -- an old spool file must not answer for the new run
  end if;

  if was = 'blocked' and new.status::text <> 'blocked' then 
    perform public.turbo_untie(old.task_id::text, (case new.status::text when 'waiting' then 'held' else 'none' end)::text);
  end if;
  if num_nonnulls(old.needs, old.continues) > 0 and 'blocked' in (was, new.status::text) then
    new.turbo_rev := old.turbo_rev + 1;        -- who read it before must read it again; a restore knows it by this
  end if;
  if old.needed is false and (new.status::text <> all (final) or asked = 'completed') then
    new.needed := true;                        -- those who wait on are to be told once more
  end if;
  if old.needed and asked in ('failed', 'cancelled') then
    waiters := public.turbo_waiters(old.task_id::text);
    if waiters > 0 then
      raise notice '% for task %, which becomes %',
        case waiters when 1 then '1 task waits' else waiters || ' tasks wait' end, public.turbo_shown(old.task_id::text, 200::integer), asked;
    end if;
  end if;

  insert into public.agent_actions (task_id, action_type, success, actor, from_status, to_status, fencing_token, detail)
  values (old.task_id, 'edited', true, session_user, was, new.status::text, old.fencing_token,
          jsonb_strip_nulls(jsonb_build_object(
            'asked', asked, 'application', nullif(current_setting('application_name'), ''), 'client', host(inet_client_addr())))
          || case when shown is null then '{}' else jsonb_build_object('question', shown) end || coalesce(told, '{}'));
  if new.status::text <> was then perform public.turbo_tell_who_waits(old.task_id::text, new.status::text); end if;
  return new;
end $$;
create or replace function public.turbo_take_answer() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  kind    text := old.question ->> 'kind';
  many    boolean := case when jsonb_typeof(old.question -> 'questions') = 'array'
                          then jsonb_array_length(old.question -> 'questions') > 1 else false end;
  name    text;         -- of the task; as all that others wrote, made visible and cut for the messages
  form    text;
  given   jsonb;
  wrong   text;
  consumed bigint := case when old.fencing_token > 0 then - old.fencing_token else old.fencing_token end;   -- answers for no result
begin
  if new.answer is not distinct from old.answer or new.turbo_rev <> old.turbo_rev or new.status <> old.status then return new; end if;
  name := public.turbo_shown(old.task_id::text, 200::integer);
  form := case when many then (select '{' || string_agg('"' || public.turbo_shown((q ->> 'question')::text, 80::integer) || '": "..."', ', ' order by n) || '}'
                                 from jsonb_array_elements(old.question -> 'questions') with ordinality x(q, n))
               when kind = 'approval' then 'yes, always, no, or no with a reason'
               when kind = 'hold' then 'yes or no'
               else 'the answer as text' end;
  if new.answer is null or new.answer !~ '[^[:space:]]' then
    raise exception 'the answer to task % is empty', name using errcode = 'check_violation', hint = 'Write ' || form || '.';
  end if;
  if octet_length(new.answer) > 262144 then
    raise exception 'the answer to task % has % bytes, more than 262144', name, octet_length(new.answer) using errcode = 'check_violation',
      hint = 'Write a shorter answer, or put the rest where the agent can read it.';
  end if;
  if kind = 'hold' and new.answer !~* '^[[:space:]]*(yes[[:space:]]*$|no\M)'
     or kind = 'approval' and new.answer !~* '^[[:space:]]*((yes|always)[[:space:]]*$|no\M)' then
    raise exception 'the answer to task % is neither yes nor no', name using errcode = 'check_violation', hint = 'Write ' || form || '.';
  end if;
  if many then
    begin
      given := new.answer::jsonb;
    exception when data_exception or program_limit_exceeded then null;
    end;
    if jsonb_typeof(given) is distinct from 'object' then
      raise exception 'task % asks % questions, and the answer is no JSON object', name, jsonb_array_length(old.question -> 'questions')
        using errcode = 'check_violation', hint = 'Write ' || form || '.';
    end if;
    if (select count(*) > count(distinct k.key) from json_object_keys(new.answer::json) k(key)) then
      raise exception 'the answer to task % answers a question twice', name using errcode = 'check_violation',
        hint = 'Write ' || form || '.';
    end if;
    select left(string_agg('''' || public.turbo_shown(k.key::text, 80::integer) || '''', ', '), 1000) into wrong
      from jsonb_object_keys(given) k(key)
     where not exists (select from jsonb_array_elements(old.question -> 'questions') q where q ->> 'question' = k.key);
    if wrong is not null then
      raise exception 'task % does not ask %', name, wrong using errcode = 'check_violation',
        hint = 'The keys are the exact texts of the questions. Write ' || form || '.';
    end if;
    select string_agg('''' || public.turbo_shown((q ->> 'question')::text, 80::integer) || '''', ', ') into wrong
      from jsonb_array_elements(old.question -> 'questions') q
     where not coalesce(case jsonb_typeof(given -> (q ->> 'question'))
                          when 'string' then given ->> (q ->> 'question') ~ '[^[:space:]]'
                          when 'array'  then jsonb_array_length(given -> (q ->> 'question')) > 0
                                             and not exists (select from jsonb_array_elements(given -> (q ->> 'question')) e(chosen)
                                                              where jsonb_typeof(e.chosen) not in ('string', 'number', 'boolean')
                                                                 or e.chosen #>> '{}' !~ '[^[:space:]]')
                          when 'number' then true when 'boolean' then true end, false);
    if wrong is not null then
      raise exception 'the answer to task % leaves out %', name, wrong using errcode = 'check_violation', hint = 'Write ' || form || '.';
    end if;
  end if;

  new.turbo_rev     := old.turbo_rev + 1;
  new.run_after     := clock_timestamp();
  new.fencing_token := consumed;
  if kind = 'hold' and new.answer ~* '^[[:space:]]*no\M' then
    new.status := 'cancelled'; new.completed_at := clock_timestamp();
    new.error_message := concat_ws(': ', 'not released', nullif(regexp_replace(new.answer, '^[[:space:]]*no[[:space:],.:;-]*', '', 'i'), ''));
    if old.needed then perform public.turbo_tell_settler(); else perform public.turbo_tell_of_messages(old.task_id::text); end if;
    perform public.turbo_tell_who_waits(old.task_id::text, 'cancelled'::text);
  elsif kind = 'hold' then
    new.run_after := greatest(clock_timestamp(), (new.question ->> 'run_after')::timestamptz);
    new.status    := case when num_nonnulls(old.needs, old.continues) > 0
                               or old.conversation is not null and old.queue = any (public.turbo_older_queues()) then 'blocked'
                          when new.run_after > clock_timestamp() + interval '1 millisecond' then 'scheduled' else 'pending' end;
    if new.status::text = 'blocked' then
      perform public.turbo_untie(old.task_id::text, 'anew'::text);
      perform public.turbo_note_work(old.task_id::text);
    end if;
  else
    new.status := 'pending';
  end if;
  insert into public.agent_actions (task_id, action_type, success, actor, from_status, to_status, fencing_token, detail)
  select old.task_id, 'answered', true, session_user, 'waiting', new.status::text, old.fencing_token,
         jsonb_build_object('question', old.question, 'answer', new.answer) || jsonb_strip_nulls(jsonb_build_object(
           'application', nullif(current_setting('application_name'), ''), 'client', host(inet_client_addr())));
  if kind = 'hold' and new.status::text <> 'cancelled' then
    new.question := old.question -> 'held'; new.answer := old.question ->> 'held_answer';
  end if;
  return new;
end $$;

-- Whoever may write a claim is a worker: turbo_worker, where turbo migrate --roles made it, and roles with grants by hand. Whoever may read
-- the state of tasks may wait for them.
do $$
declare
  holder record;
begin
  for holder in
    select distinct case p.grantee when 'PUBLIC' then 'public' else quote_ident(p.grantee) end as name, p.privilege_type = 'UPDATE' as claims
      from information_schema.column_privileges p
     where p.table_schema = 'public' and p.table_name = 'agent_tasks'
       and (p.column_name = 'fencing_token' and p.privilege_type = 'UPDATE' or p.column_name = 'status' and p.privilege_type = 'SELECT')
  loop
    if holder.claims then
      execute format('grant execute on function public.turbo_tell_who_waits(text, text) to %s', holder.name);
      execute format('grant usage on sequence public.turbo_wait_seq to %s', holder.name);
    else
      execute format('grant execute on function public.turbo_wait(text, text) to %s', holder.name);
    end if;
  end loop;
end $$;
