-- turbo: no-transaction
-- turbo: compatible-from 3
-- Tasks that wait for a person. A run that asks ends, and its row waits in status `waiting`: without a slot, a process or a login,
-- and in no claim's way. An answer, written into the row by any SQL client, makes it `pending` again.
-- `blocked` rows wait for other tasks. turbo.migrate.adoption has widened an adopted enum or CHECK on status before this file.

-- A column of these names that is there already is the deployment's own, and means something else: nothing is changed then.
do $$
declare
  taken text;
begin
  select string_agg(a.attname, ', ' order by a.attnum) into taken
    from pg_attribute a
   where a.attrelid = 'public.agent_tasks'::regclass and a.attnum > 0 and not a.attisdropped
     and a.attname in ('question', 'answer', 'prefer_host')
     and coalesce(col_description(a.attrelid, a.attnum), '') not like '%(turbo)';
  if taken is not null then
    raise exception 'agent_tasks has columns that turbo needs for itself: %', taken using errcode = 'duplicate_column',
      hint = 'Rename them (ALTER TABLE public.agent_tasks RENAME COLUMN ...) and run turbo migrate again.';
  end if;
end $$;
alter table public.agent_tasks
  add column if not exists question    jsonb,
  add column if not exists answer      text,
  add column if not exists prefer_host text;
comment on column public.agent_tasks.question is
  'what a person is asked, and last was: {"kind": "question" | "approval" | "hold", "text": ...}; written by turbo alone (turbo)';
comment on column public.agent_tasks.answer is
  'the answer to question: UPDATE agent_tasks SET answer = ''...'' WHERE task_id = ... AND status = ''waiting'' (turbo)';
comment on column public.agent_tasks.prefer_host is
  'the host that has the task''s conversation and directory: no other one runs it; null: any host (turbo)';
-- Who may write a claim may record questions: turbo_worker, where turbo migrate --roles made it, and roles with grants by hand.
-- turbo_admin may answer, and let another host run a task.
do $$
declare
  worker record;
begin
  for worker in
    select distinct p.grantee from information_schema.column_privileges p
     where p.table_schema = 'public' and p.table_name = 'agent_tasks' and p.column_name = 'fencing_token'
       and p.privilege_type = 'UPDATE'
  loop
    execute format('grant select (question, answer, prefer_host), update (question, answer, prefer_host) on public.agent_tasks to %s',
                   case worker.grantee when 'PUBLIC' then 'public' else quote_ident(worker.grantee) end);
  end loop;
  if exists (select from pg_catalog.pg_roles where rolname = 'turbo_admin')
     and has_column_privilege('turbo_admin', 'public.agent_tasks', 'agent_session_id', 'update') then
    grant update (answer, prefer_host) on public.agent_tasks to turbo_admin;
  end if;
end $$;
-- turbo: next
alter table public.agent_workers add column if not exists schema integer;
comment on column public.agent_workers.schema is 'the schema that this worker knows; null: one from before 12';
-- turbo: next
-- What rests, by its queue and the moment it is due: scheduled rows, and questions by their deadline.
create index concurrently if not exists agent_tasks_resting
  on public.agent_tasks (status, queue, run_after) where status in ('scheduled', 'waiting', 'blocked');
-- turbo: next
-- After the other is there: it serves an older worker's statements as well.
drop index concurrently if exists public.agent_tasks_scheduled;
-- turbo: next
-- A hold, as a question. `held`: what the row asked before, with its answer; it is there again when the hold is released.
create or replace function public.turbo_hold(description text, run_after timestamptz, held jsonb, held_answer text) returns jsonb
language sql stable set search_path = pg_catalog, pg_temp as $$
  select jsonb_strip_nulls(jsonb_build_object(
    'kind', 'hold', 'asked_at', clock_timestamp(),
    'text', left(description, 2000) || case when length(description) > 2000 then ' … (the rest is in task_description)' else '' end,
    'run_after', case when run_after > now() then run_after end, 'number', held -> 'number', 'held_answer', held_answer))
    || case when held is null then '{}' else jsonb_build_object('held', held) end   -- whole: with the nulls of a call's input
$$;
revoke all on function public.turbo_hold(text, timestamptz, jsonb, text) from public;

-- Whoever may write claims may write any question. What statements compute with is refused unless they can, also in what a hold
-- keeps: one row must not make the lists of all tasks fail. Fires where `question` is in the SET list: for a question and for each
-- row that a poll promotes, but in no claim and no finish.
create or replace function public.turbo_bound_question() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  one jsonb;
begin
  if new.question is not distinct from old.question then return new; end if;       -- a promotion
  new.question := nullif(new.question, 'null');
  one := new.question;
  for level in 1 .. 10 loop
    exit when one is null;
    if jsonb_typeof(one) <> 'object'
       or not isfinite((one ->> 'asked_at')::timestamptz)
       or (one ->> 'answer_by')::timestamptz is null and one ->> 'answer_by' is not null      -- the casts fail
       or (one ->> 'run_after')::timestamptz is null and one ->> 'run_after' is not null
       or (one ->> 'number')::int not between 0 and 1000000
       or (one ->> 'remind_seconds')::float8 > 0 and (one ->> 'remind_seconds')::float8 not between 0.001 and 1e9 then
      raise exception 'this is no question' using errcode = 'check_violation';
    end if;
    one := nullif(one -> 'held', 'null');
  end loop;
  if one is not null then
    raise exception 'this is no question: it holds another one, and that another one, many times' using errcode = 'check_violation';
  end if;
  return new;
end $$;
revoke all on function public.turbo_bound_question() from public;

create or replace function public.turbo_judge_insert() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  adopted boolean;
begin
  if new.status = 'pending' and new.run_after <= now() and isfinite(new.run_after)
     and (new.queue = 'default' or new.queue ~ '^[a-z0-9_-]{1,40}$')
     and new.task_type is not null and new.retry_count >= 0
     and new.created_at <= now() and new.created_at > '-infinity'
     and ascii(new.task_id::text) > 32 and octet_length(new.task_id::text) <= 2048
     and new.task_description ~ '[^[:space:]]'
     and new.timeout_seconds >= 1 and new.max_retries >= 0
     and coalesce(length(new.concurrency_key), 0) <= 500 and coalesce(length(new.idempotency_key), 0) <= 500
     and new.fencing_token is null and new.agent_session_id is null
     and new.turbo_rev = 0 and new.infra_count = 0
     and new.cancel_to is null and new.cancel_requested_at is null
     and num_nonnulls(new.question, new.answer, new.prefer_host) = 0
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
  new.question        := nullif(new.question, 'null');    -- what some mappers write for none
  if new.task_id is null and not adopted then
    new.task_id := 't_' || left(replace(gen_random_uuid()::text, '-', ''), 20);
  end if;

  -- A data-only restore brings back rows as turbo left them: claimed, running, finished. It is taken as one from the owner of
  -- the table (the role set with SET ROLE, if any), by COPY or where turbo.restore is on. It gives nobody anything: an owner
  -- may switch triggers off. A row that is held may never have been written by turbo: it has a question, and turbo_rev 0.
  if new.turbo_rev between (case when new.question is null then 1 else 0 end) and 9007199254740992 and isfinite(new.run_after)
     and (adopted or new.status::text in ('scheduled', 'pending', 'blocked', 'running', 'waiting', 'completed', 'failed', 'cancelled'))
     and (current_query() ~* '^[[:space:]]*copy[[:space:]]' or coalesce(current_setting('turbo.restore', true), '') = 'on')
     and (select pg_has_role(case current_setting('role') when 'none' then session_user else current_setting('role')::name end,
                             c.relowner, 'usage')
            from pg_class c where c.oid = tg_relid)
  then return new; end if;

  -- A task made in the future would come first in every list of the newest until then. An old poller may write the local time
  -- of another zone into a column without one.
  if new.created_at > now() + (case when adopted then interval '1 day' else interval '0' end) or new.created_at = '-infinity' then
    new.created_at := now();
  end if;
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
     and new.status::text not in ('pending', 'scheduled', 'waiting', 'completed', 'failed', 'cancelled') then
    raise exception 'unknown status %', quote_literal(new.status) using errcode = 'check_violation',
      hint = 'Leave status out, or write ''pending'', ''scheduled'', or ''waiting'' to hold the task until a person releases it.';
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
  if num_nonnulls(new.question, new.answer, new.prefer_host) > 0 then
    raise exception 'an insert may not set question, answer or prefer_host' using errcode = 'check_violation',
      hint = 'Leave these columns out. To hold the task until a person releases it, write status ''waiting''.';
  end if;
  if new.turbo_rev <> 0 or new.infra_count <> 0 or new.cancel_to is not null or new.cancel_requested_at is not null then
    raise exception 'an insert may not set turbo_rev, infra_count, cancel_to or cancel_requested_at' using errcode = 'check_violation',
      hint = 'Leave these columns out: they are turbo''s own.';
  end if;

  if new.status::text = 'waiting' then
    new.question  := public.turbo_hold(new.task_description::text, new.run_after::timestamptz, null::jsonb, null::text);
    new.run_after := '9000-01-01 00:00:00+00';
  elsif new.status::text = 'pending' and new.run_after > now() then
    new.status := 'scheduled';     -- a million rows due tomorrow must not stand in the claim index
  elsif new.status::text = 'scheduled' and new.run_after <= now() then
    new.status := 'pending';
  end if;
  return new;
end $$;
-- turbo: next
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
  resting constant text[] := array['scheduled', 'pending', 'blocked', 'waiting', 'completed', 'failed', 'cancelled'];
  final   constant text[] := array['completed', 'failed', 'cancelled'];
  texts   constant text[] := array['task_description', 'input_data', 'output_data', 'error_message'];
  known   constant text[] := array[
    'task_id', 'task_type', 'task_description', 'task_priority', 'input_data', 'status', 'output_data', 'error_message',
    'execution_time_ms', 'assigned_worker_id', 'timeout_seconds', 'max_retries', 'retry_count', 'created_at', 'started_at',
    'completed_at', 'queue', 'run_after', 'fencing_token', 'idempotency_key', 'concurrency_key', 'agent_session_id', 'failure_kind',
    'cancel_requested_at', 'cancel_to', 'infra_count', 'turbo_rev', 'question', 'answer', 'prefer_host'];
  written text[];       -- by the person, before this function changes anything
  own     text;         -- a column of the deployment's own
  differs boolean;
  shown   jsonb;        -- the question that this update leaves without an answer
  latest  timestamptz;
  told    jsonb;
  by_whom name    := case current_setting('role') when 'none' then session_user else current_setting('role')::name end;
  consumed bigint := case when old.fencing_token > 0 then - old.fencing_token else old.fencing_token end;   -- answers for no result
begin
  if new.turbo_rev is distinct from old.turbo_rev then
    raise exception 'task % has changed since it was read: its turbo_rev is %, not %',
      old.task_id, old.turbo_rev, coalesce(new.turbo_rev::text, 'null') using errcode = 'serialization_failure',
      hint = 'Read the row again, and write only the columns that you change; leave turbo_rev out of the UPDATE.';
  end if;
  new.question := nullif(new.question, 'null');     -- what some mappers write for none
  if new.question is distinct from old.question then
    raise exception 'question is turbo''s own' using errcode = 'check_violation',
      hint = 'Leave it out of the UPDATE. To answer it: SET answer = ''...''.';
  end if;
  if new.answer is distinct from old.answer then      -- the rest of its rules: turbo_take_answer
    if was is distinct from 'waiting' or old.question is null then
      raise exception 'task % does not wait for an answer: it %', old.task_id,
        case when was = 'waiting' then 'was asked nothing' else 'is ' || was end using errcode = 'object_not_in_prerequisite_state',
        hint = 'Somebody answered before, or its time is over. SELECT task_id, question FROM agent_tasks WHERE status = ''waiting'' shows who waits.';
    end if;
    if asked is distinct from was then
      raise exception 'answer task % or change its status, not both at once', old.task_id using errcode = 'check_violation',
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
    case when new.prefer_host         is distinct from old.prefer_host         then 'prefer_host' end], null);
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
  if not ours and (not (was = any (resting) and asked = any (resting)) or new.retry_count is distinct from old.retry_count
                   or adopted and 'blocked' in (was, asked)) then
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
    -- Only run_after, queue or key changed: a pending row that is put off leaves the claim index, and comes back. While a row
    -- waits, run_after is the deadline of its question; a held task's own moment is in the hold.
    if was = 'waiting' and new.run_after is distinct from old.run_after then
      if old.question ->> 'kind' = 'hold' then
        new.question  := new.question || jsonb_build_object('run_after', new.run_after);
        new.run_after := old.run_after;
      elsif new.run_after <= (old.question ->> 'asked_at')::timestamptz then    -- as in a save of what was read before it asked
        raise exception 'run_after is %, and task % has asked at %', new.run_after, old.task_id, old.question ->> 'asked_at'
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
    raise exception 'task % is running on %: it cannot be held', old.task_id, old.assigned_worker_id using errcode = 'object_in_use',
      hint = 'Write ''cancelled'' to stop it, or ''pending'' to stop it and run it again.';

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
      perform pg_notify('turbo_ctl', 'stop ' || left(old.assigned_worker_id, 255));
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
    new.fencing_token := consumed;      -- a result still in some spool must not answer for this
    if was = 'waiting' and new.run_after is not distinct from old.run_after then new.run_after := clock_timestamp(); end if;

  elsif asked = 'waiting' then
    if was = any (final) then
      raise exception 'task % is over: it cannot be held', old.task_id using errcode = 'check_violation',
        hint = 'Write ''pending'' to run it again.';
    end if;
    -- a save of every column that was read while the task waited
    if new.run_after is distinct from old.run_after
       and date_trunc('milliseconds', new.run_after)
           in ('9000-01-01 00:00:00+00', date_trunc('milliseconds', (old.question ->> 'answer_by')::timestamptz)) then
      raise exception 'task % has changed since it was read: it does not wait any more', old.task_id using errcode = 'serialization_failure',
        hint = 'Read the row again, and write only the columns that you change. To hold the task: SET status = ''waiting''.';
    end if;
    new.question      := public.turbo_hold(new.task_description::text, new.run_after::timestamptz, old.question::jsonb, old.answer::text);
    new.answer        := null;
    new.run_after     := '9000-01-01 00:00:00+00';
    new.fencing_token := consumed;

  elsif asked = 'blocked' then
    raise exception 'task % waits for no other task: it cannot be blocked', old.task_id using errcode = 'check_violation',
      hint = 'Write ''waiting'' to hold it until a person releases it.';

  else   -- pending or scheduled: run it (again)
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
    new.cancel_requested_at := null; new.cancel_to := null;
    new.fencing_token := consumed;      -- an old spool file must not answer for the new run
  end if;

  insert into public.agent_actions (task_id, action_type, success, actor, from_status, to_status, fencing_token, detail)
  values (old.task_id, 'edited', true, session_user, was, new.status::text, old.fencing_token,
          jsonb_strip_nulls(jsonb_build_object(
            'asked', asked, 'application', nullif(current_setting('application_name'), ''), 'client', host(inet_client_addr())))
          || case when shown is null then '{}' else jsonb_build_object('question', shown) end || coalesce(told, '{}'));
  return new;
end $$;

-- The first characters of a text as in JSON: control characters, those that turn the direction of text and those that leave no
-- mark are escaped, because psql prints the messages of a server as they are.
create or replace function public.turbo_shown(shown text, most integer) returns text
language sql immutable set search_path = pg_catalog, pg_temp as $$
  select coalesce(string_agg(
           case when c in ('"', '\') then '\' || c
                when ascii(c) <@ '{[0,31],[127,159],[173,173],[847,847],[1536,1541],[1564,1564],[1757,1757],[1807,1807],[2192,2193],
                                   [2274,2274],[4447,4448],[6068,6069],[6155,6159],[8203,8207],[8232,8238],[8288,8303],[10240,10240],
                                   [12644,12644],[65024,65039],[65279,65279],[65440,65440],[65520,65535]}'::int4multirange
                     then '\u' || lpad(to_hex(ascii(c)), 4, '0')
                when ascii(c) > 65535 and ascii(c) <@ '{[69821,69821],[69837,69837],[78896,78911],[94180,94180],[113824,113827],
                                   [119129,119129],[119155,119162],[917504,921599]}'::int4multirange then '?'
                else c end, '' order by n), '') || case when length(shown) > most then '…' else '' end
    from regexp_split_to_table(left(shown, most), '') with ordinality x(c, n)
$$;
revoke all on function public.turbo_shown(text, integer) from public;

-- An answer to a row that waits. Fires where `answer` is in the SET list, after the judge of updates (by its name), which has
-- refused an answer to any other row, and written what else was edited into the trail. The first of two answers counts; the
-- second finds that the row no longer waits. The revision rises: whoever read the row before must read it again.
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
  elsif kind = 'hold' then
    new.run_after := greatest(clock_timestamp(), (new.question ->> 'run_after')::timestamptz);
    new.status    := case when new.run_after > clock_timestamp() + interval '1 millisecond' then 'scheduled' else 'pending' end;
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
revoke all on function public.turbo_take_answer() from public;

create or replace trigger turbo_bound_question before update of question on public.agent_tasks for each row
  execute function public.turbo_bound_question();
-- Its condition is in the function: every statement copies the text of a WHEN clause, a claim too.
create or replace trigger zz_turbo_take_answer before update of answer on public.agent_tasks for each row
  execute function public.turbo_take_answer();
