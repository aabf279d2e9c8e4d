-- turbo: compatible-from 3
-- Every hand edit and every deletion by hand stands in the audit trail, whatever it writes: results, texts, limits.
-- Fires for an update that turbo did not make. turbo's own statements, and nothing else, raise turbo_rev by one. An update
-- that leaves it alone is a hand edit: it gets its intended meaning, and is written into the trail with the person's name.
-- The trail also says which columns were written, and how long the texts were and are; never what they said.
-- Any other turbo_rev was read before turbo last wrote the row, as by an ORM that saves every column. The rest of such a row
-- is as old, so it is refused, as optimistic locking does.
create or replace function public.turbo_judge_update() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  adopted boolean := tg_argv[0]::boolean;
  asked   text    := new.status::text;
  was     text    := old.status::text;
  ours    boolean := old.fencing_token is not null;
  live    boolean := old.status::text = 'running' and coalesce(old.fencing_token, 0) > 0;
  resting constant text[] := array['scheduled', 'pending', 'completed', 'failed', 'cancelled'];
  final   constant text[] := array['completed', 'failed', 'cancelled'];
  texts   constant text[] := array['task_description', 'input_data', 'output_data', 'error_message'];
  known   constant text[] := array[
    'task_id', 'task_type', 'task_description', 'task_priority', 'input_data', 'status', 'output_data', 'error_message',
    'execution_time_ms', 'assigned_worker_id', 'timeout_seconds', 'max_retries', 'retry_count', 'created_at', 'started_at',
    'completed_at', 'queue', 'run_after', 'fencing_token', 'idempotency_key', 'concurrency_key', 'agent_session_id', 'failure_kind',
    'cancel_requested_at', 'cancel_to', 'infra_count', 'turbo_rev'];
  written text[];       -- by the person, before this function changes anything
  own     text;         -- a column of the deployment's own
  differs boolean;
  latest  timestamptz;
  told    jsonb;
  by_whom name    := case current_setting('role') when 'none' then session_user else current_setting('role')::name end;
begin
  if new.turbo_rev is distinct from old.turbo_rev then
    raise exception 'task % has changed since it was read: its turbo_rev is %, not %',
      old.task_id, old.turbo_rev, coalesce(new.turbo_rev::text, 'null') using errcode = 'serialization_failure',
      hint = 'Read the row again, and write only the columns that you change; leave turbo_rev out of the UPDATE.';
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
    case when new.infra_count         is distinct from old.infra_count         then 'infra_count' end], null);
  -- As text: not every type has an equality. A generated column is computed after this.
  for own in
    select a.attname from pg_attribute a
     where a.attrelid = tg_relid and a.attnum > 0 and not a.attisdropped and a.attgenerated = '' and a.attname <> all (known)
     order by a.attnum
  loop
    execute format('select ($1).%1$I::text is distinct from ($2).%1$I::text', own) into differs using old, new;
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

  if new.status is not distinct from old.status and new.queue is not distinct from old.queue
     and new.task_id is not distinct from old.task_id and new.run_after is not distinct from old.run_after
     and new.concurrency_key is not distinct from old.concurrency_key
     and new.fencing_token is not distinct from old.fencing_token
     and new.agent_session_id is not distinct from old.agent_session_id
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
      raise exception 'task % is running: its task_id cannot change', old.task_id using errcode = 'object_in_use',
        hint = 'Cancel it first (UPDATE ... SET status = ''cancelled''), or wait for it to finish.';
    end if;
    if new.task_id is null or new.task_id::text !~ '[^[:space:]]' or octet_length(new.task_id::text) > 2048 then
      raise exception 'task_id is empty, or longer than 2048 bytes' using errcode = 'check_violation',
        hint = 'Write a shorter id, or a hash of it: md5(...).';
    end if;
  end if;
  if asked is null or not (asked = any (resting) or asked = 'running' or adopted and (not ours or was = 'pending')) then
    raise exception 'unknown status %', coalesce(quote_literal(asked), 'null') using errcode = 'check_violation',
      hint = 'Write ''pending'' to run the task again, ''cancelled'' to cancel it, ''completed'' or ''failed'' to close it.';
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
  if not ours and (not (was = any (resting) and asked = any (resting)) or new.retry_count is distinct from old.retry_count) then
    -- It is not told either, unless this role cannot be a poller: it may not write what a claim writes.
    if asked = was and was = any (resting) and written && texts
       or not has_column_privilege(by_whom, tg_relid, 'assigned_worker_id', 'update') then
      insert into public.agent_actions (task_id, action_type, success, actor, detail)
      select old.task_id, 'edited', true, session_user, coalesce(told, '{}') || jsonb_build_object('asked', asked);
    end if;
    return new;
  end if;

  if live and asked = was and new.assigned_worker_id is distinct from old.assigned_worker_id then
    raise exception 'task % is running on %', old.task_id, old.assigned_worker_id using errcode = 'object_in_use',
      hint = 'A worker has claimed it meanwhile. Whoever claims beside it must ask: UPDATE ... WHERE task_id = ... AND status = ''pending''.';
  end if;
  if live and new.concurrency_key is distinct from old.concurrency_key then
    raise exception 'task % is running: its concurrency_key cannot change', old.task_id using errcode = 'object_in_use',
      hint = 'Cancel it first (UPDATE ... SET status = ''cancelled''), or wait for it to finish.';
  end if;

  if asked = was then
    -- Only run_after, queue or key changed: a pending row that is put off leaves the claim index, and comes back.
    if was = 'pending' and new.run_after > now() then new.status := 'scheduled';
    elsif was = 'scheduled' and new.run_after <= now() then new.status := 'pending';
    end if;
    if new.status is not distinct from old.status then
      insert into public.agent_actions (task_id, action_type, success, actor, detail)
      select old.task_id, 'edited', true, session_user, told;
      return new;
    end if;
    asked := new.status::text;

  elsif live then
    -- The agent is alive. The row, and its concurrency_key, stay its own until its worker says that it is gone.
    new.status              := old.status;
    new.cancel_to           := asked;
    new.cancel_requested_at := clock_timestamp();
    new.assigned_worker_id  := old.assigned_worker_id;
    new.started_at          := old.started_at;
    new.completed_at        := old.completed_at;
    raise notice 'task % is running on %: its agent is being stopped, then the task becomes %', old.task_id, old.assigned_worker_id, asked;
    if current_setting('turbo.notify', true) is distinct from 'off' and pg_notification_queue_usage() <= 0.5 then
      perform pg_notify('turbo_ctl', 'stop ' || old.assigned_worker_id);
    end if;

  elsif asked <> all (resting) then
    if was <> 'pending' then
      raise exception 'task % cannot be set to running by hand', old.task_id using errcode = 'check_violation',
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
    new.fencing_token := - abs(old.fencing_token);      -- a result still in some spool must not answer for this

  else   -- pending or scheduled: run it (again)
    if asked = 'pending' then
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
    end if;
    new.cancel_requested_at := null; new.cancel_to := null;
    new.fencing_token := - abs(old.fencing_token);      -- an old spool file must not answer for the new run
  end if;

  insert into public.agent_actions (task_id, action_type, success, actor, from_status, to_status, fencing_token, detail)
  values (old.task_id, 'edited', true, session_user, was, new.status::text, old.fencing_token,
          jsonb_strip_nulls(jsonb_build_object(
            'asked', asked, 'application', nullif(current_setting('application_name'), ''), 'client', host(inet_client_addr())))
          || coalesce(told, '{}'));
  return new;
end $$;


-- Fires after a statement that deleted tasks, or emptied the table. The leader's retention (turbo/sql/retention/tasks.sql) is
-- not in the trail: one line per task would cost as much as the task. It is known by its name, which a session can forge
-- only if it may also forge a claim: if it may UPDATE turbo_rev.
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
revoke all on function public.turbo_note_delete() from public;

create or replace trigger turbo_note_delete after delete on public.agent_tasks
  referencing old table as gone for each statement execute function public.turbo_note_delete();
create or replace trigger turbo_note_truncate after truncate on public.agent_tasks
  for each statement execute function public.turbo_note_delete();
