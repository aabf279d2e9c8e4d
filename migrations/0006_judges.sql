-- turbo: compatible-from 3
-- What the database accepts from an ORM, from a restore and from any session. The judges, whole, and the condition of one.

-- An ordinary row passes by the first expression; null in it is no yes. A task_id whose first character is a blank is judged
-- below; so is one that is not text, and it passes.
-- The inserting session may have any settings. No backslash in a pattern: with standard_conforming_strings off it would be
-- read as an escape. No message beyond ASCII: a session in LATIN1 could not be sent it.
-- null means "not given" for every column with a default, because an ORM's plain model inserts every column. Only a
-- task_priority of null has a meaning: after all others.
-- The longest task_id, 2,048 bytes, leaves an index entry (2,704 bytes) room for other columns beside it.
create or replace function public.turbo_judge_insert() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  adopted boolean;
begin
  if new.status = 'pending' and new.run_after <= now() and isfinite(new.run_after)
     and (new.queue = 'default' or new.queue ~ '^[a-z0-9_-]{1,40}$')
     and new.task_type is not null and new.retry_count >= 0 and new.created_at is not null
     and ascii(new.task_id::text) > 32 and octet_length(new.task_id::text) <= 2048
     and new.task_description ~ '[^[:space:]]'
     and new.timeout_seconds >= 1 and new.max_retries >= 0
     and coalesce(length(new.concurrency_key), 0) <= 500 and coalesce(length(new.idempotency_key), 0) <= 500
     and new.fencing_token is null and new.agent_session_id is null
     and new.turbo_rev = 0 and new.infra_count = 0
     and new.cancel_to is null and new.cancel_requested_at is null
  then return new; end if;

  adopted       := tg_argv[0]::boolean;
  new.status    := coalesce(new.status, 'pending');
  new.queue     := coalesce(new.queue, 'default');
  new.run_after := coalesce(new.run_after, now());
  new.task_type := coalesce(new.task_type, 'default');
  new.retry_count     := coalesce(new.retry_count, 0);
  new.created_at      := coalesce(new.created_at, now());
  new.timeout_seconds := coalesce(new.timeout_seconds, 300);
  new.max_retries     := coalesce(new.max_retries, 3);
  new.infra_count     := coalesce(new.infra_count, 0);
  new.turbo_rev       := coalesce(new.turbo_rev, 0);
  if new.task_id is null and not adopted then
    new.task_id := 't_' || left(replace(gen_random_uuid()::text, '-', ''), 20);
  end if;

  -- A data-only restore brings back rows as turbo left them: claimed, running, finished. It is taken as one from the owner of
  -- the table (the role set with SET ROLE, if any), by COPY or where turbo.restore is on. It gives nobody anything: an owner
  -- may switch triggers off.
  if new.turbo_rev between 1 and 9007199254740992 and isfinite(new.run_after)
     and (adopted or new.status::text in ('pending', 'scheduled', 'running', 'completed', 'failed', 'cancelled'))
     and (current_query() ~* '^[[:space:]]*copy[[:space:]]' or coalesce(current_setting('turbo.restore', true), '') = 'on')
     and (select pg_has_role(case current_setting('role') when 'none' then session_user else current_setting('role')::name end,
                             c.relowner, 'usage')
            from pg_class c where c.oid = tg_relid)
  then return new; end if;

  if new.task_id is null or new.task_id::text !~ '[^[:space:]]' then
    raise exception 'task_id is empty' using errcode = 'check_violation',
      hint = 'Leave task_id out to get a generated one, or write an id of your own.';
  end if;
  if octet_length(new.task_id::text) > 2048 then
    raise exception 'task_id has % bytes, more than 2048', octet_length(new.task_id::text) using errcode = 'check_violation',
      hint = 'Write a shorter id, or a hash of it: md5(...).';
  end if;
  if new.task_description is null or new.task_description !~ '[^[:space:]]' then
    raise exception 'task_description is empty' using errcode = 'check_violation',
      hint = 'Write what the agent is to do: INSERT INTO agent_tasks (task_description) VALUES (''...'').';
  end if;
  if new.status::text = 'running' then
    raise exception 'a task cannot be inserted as running' using errcode = 'check_violation',
      hint = 'Leave status out, or write ''pending'' (or ''scheduled'' with run_after): a worker sets ''running'' when it claims the task.';
  end if;
  if not adopted
     and new.status::text not in ('pending', 'scheduled', 'completed', 'failed', 'cancelled') then
    raise exception 'unknown status %', quote_literal(new.status) using errcode = 'check_violation',
      hint = 'Leave status out, or write ''pending'' or ''scheduled''. The states are scheduled, pending, running, completed, failed, cancelled.';
  end if;
  if new.queue !~ '^[a-z0-9_-]{1,40}$' then
    raise exception 'queue % is not a queue name', quote_literal(left(new.queue, 60)) using errcode = 'check_violation',
      hint = 'A queue is 1 to 40 of a-z 0-9 _ -. Leave it out for ''default''.';
  end if;
  if new.timeout_seconds < 1 then
    raise exception 'timeout_seconds is %', new.timeout_seconds using errcode = 'check_violation',
      hint = 'Write at least 1 (seconds), or leave it out for 300.';
  end if;
  if new.max_retries < 0 then
    raise exception 'max_retries is %', new.max_retries using errcode = 'check_violation',
      hint = 'Write 0 for no retry, or leave it out for 3.';
  end if;
  if new.retry_count < 0 then
    raise exception 'retry_count is %', new.retry_count using errcode = 'check_violation',
      hint = 'Leave retry_count out: it counts the tries already used, from 0.';
  end if;
  if not isfinite(new.run_after) then
    raise exception 'run_after is %', new.run_after using errcode = 'check_violation',
      hint = 'Write a moment, as in now() + interval ''1 hour'', or leave it out for now.';
  end if;
  if length(new.concurrency_key) > 500 or length(new.idempotency_key) > 500 then
    raise exception 'concurrency_key or idempotency_key is longer than 500 characters' using errcode = 'check_violation',
      hint = 'Write a shorter key, or a hash of it: md5(...).';
  end if;
  if new.fencing_token is not null or new.agent_session_id is not null then
    raise exception 'an insert may not set fencing_token or agent_session_id' using errcode = 'check_violation',
      hint = 'Leave both out: turbo sets the token when a worker claims the task, and a foreign session id would resume someone else''s conversation.';
  end if;
  if new.turbo_rev <> 0 or new.infra_count <> 0 or new.cancel_to is not null or new.cancel_requested_at is not null then
    raise exception 'an insert may not set turbo_rev, infra_count, cancel_to or cancel_requested_at' using errcode = 'check_violation',
      hint = 'Leave these columns out: they are turbo''s own.';
  end if;

  if new.status::text = 'pending' and new.run_after > now() then
    new.status := 'scheduled';     -- a million rows due tomorrow must not stand in the claim index
  elsif new.status::text = 'scheduled' and new.run_after <= now() then
    new.status := 'pending';
  end if;
  return new;
end $$;


-- Fires for an update that turbo did not make. turbo's own statements, and nothing else, raise turbo_rev by one. An update
-- that leaves it alone is a hand edit: it gets its intended meaning, and is written into the trail with the person's name.
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
begin
  if new.turbo_rev is distinct from old.turbo_rev then
    raise exception 'task % has changed since it was read: its turbo_rev is %, not %',
      old.task_id, old.turbo_rev, coalesce(new.turbo_rev::text, 'null') using errcode = 'serialization_failure',
      hint = 'Read the row again, and write only the columns that you change; leave turbo_rev out of the UPDATE.';
  end if;
  if new.status is not distinct from old.status and new.queue is not distinct from old.queue
     and new.task_id is not distinct from old.task_id and new.run_after is not distinct from old.run_after
     and new.concurrency_key is not distinct from old.concurrency_key
     and new.fencing_token is not distinct from old.fencing_token
     and new.agent_session_id is not distinct from old.agent_session_id
     and not (live and new.assigned_worker_id is distinct from old.assigned_worker_id)
  then return new; end if;      -- nothing that turbo stands on

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

  -- A row that turbo never claimed may be an old poller's, still at work beside turbo. What only such a poller does
  -- (running on either side, a status of its own, its own count of retries) passes untouched.
  if not ours and (not (was = any (resting) and asked = any (resting)) or new.retry_count is distinct from old.retry_count) then
    return new;
  end if;

  if new.fencing_token is distinct from old.fencing_token
     or new.agent_session_id is distinct from old.agent_session_id and new.agent_session_id is not null then
    raise exception 'fencing_token and agent_session_id are turbo''s own' using errcode = 'check_violation',
      hint = 'Leave both out of the UPDATE. To forget an agent''s session, set agent_session_id to null.';
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
    if new.status is not distinct from old.status then return new; end if;
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
    if current_setting('turbo.notify', true) is distinct from 'off' then
      perform pg_notify('turbo_ctl', 'stop ' || old.assigned_worker_id);
    end if;

  elsif asked <> all (resting) then
    if was <> 'pending' then
      raise exception 'task % cannot be set to running by hand', old.task_id using errcode = 'check_violation',
        hint = 'Write ''pending'': a worker claims it and sets ''running''.';
    end if;
    new.fencing_token := null;     -- an old poller's claim, by this name or another: from here on the row is its own
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
            'asked', asked, 'application', nullif(current_setting('application_name'), ''), 'client', host(inet_client_addr()))));
  return new;
end $$;
create or replace function public.turbo_judge_delete() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  raise exception 'task % is running on %', old.task_id, old.assigned_worker_id using errcode = 'object_in_use',
    hint = 'Cancel it first: UPDATE agent_tasks SET status = ''cancelled'' WHERE task_id = ...; delete the row once its status says so.';
end $$;

comment on column public.agent_tasks.turbo_rev is
  'raised by one by every statement of turbo, and by nothing else; an update that leaves it alone is a hand edit; any other value is refused';
-- turbo: next
-- One comparison, and the rest in the function: the server parses this clause from its stored text for every statement, a
-- worker's too.
do $$
begin
  execute format($t$
    create or replace trigger zz_turbo_judge_update before update on public.agent_tasks for each row
    when (new.turbo_rev is distinct from old.turbo_rev + 1)
    execute function public.turbo_judge_update(%L)$t$,
    (select value::text from public.turbo_meta where key = 'adopted'));
end $$;
-- turbo: next
-- Workers read created_at from here on (tasks/claim.sql). turbo_worker has its privileges only where turbo migrate --roles gave
-- them, and they are not to be given again by hand.
do $$
begin
  if exists (select from pg_catalog.pg_roles where rolname = 'turbo_worker')
     and has_column_privilege('turbo_worker', 'public.agent_tasks', 'status', 'select') then
    grant select (created_at) on public.agent_tasks to turbo_worker;
  end if;
end $$;
