-- turbo: compatible-from 3
-- What a task waits for, judged: inserts, hand edits, answers of holds, deletions. An insert and a hand edit lock no row of another
-- task and wait for none: they leave notes (agent_unsettled), and the settler sees to the rest in short transactions of its own
-- (turbo/sql/settle/).

-- Tells the settlers that there is something. Goes out with the commit; the poll finds what it announces, too.
create or replace function public.turbo_tell_settler() returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  if current_setting('turbo.notify', true) is distinct from 'off' and pg_notification_queue_usage() <= 0.5 then
    perform pg_notify('turbo_ctl', 'settle');
  end if;
end $$;

-- Tells them if a task that a person ends has messages that reached no run. The table is there from the next migration on.
create or replace function public.turbo_tell_of_messages(task text) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp set enable_seqscan = off as $$
begin
  if to_regclass('public.agent_messages') is null then return; end if;
  if (select true from public.agent_messages m where m.task_id = task::public.turbo_task_id and m.delivered_at is null limit 1) then
    perform public.turbo_tell_settler();
  end if;
end $$;

-- A note: the settler looks at this task.
create or replace function public.turbo_note_work(task text) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  insert into public.agent_unsettled (task_id) values (task::public.turbo_task_id);
  if current_setting('turbo.notify', true) is distinct from 'off' and pg_notification_queue_usage() <= 0.5 then
    perform pg_notify('turbo_ctl', 'settle');
  end if;
end $$;

-- Whether a need that is over counts as met. mode: of the edge; ended: the state it ended in, 'unrun' for a cancelled one that never ran;
-- before: it is the task before this one in their conversation, whose end is enough, unless it never ran. In one place, and written so
-- that it becomes a part of the statement that asks: no call, no grant.
create or replace function public.turbo_met(mode text, ended text, before boolean) returns boolean
language sql immutable as $$
  select case ended when 'completed' then true when 'unrun' then mode = 'run' and before is not true else mode = 'run' end
$$;

-- A note, if tasks wait for this one or ever did: it is retried, or corrected to completed. Those that wait still wait for it again;
-- those that were cancelled because of it are taken back.
create or replace function public.turbo_note_need(need text) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp
  set enable_seqscan = off set plan_cache_mode = force_generic_plan as $$
begin
  if (select true from public.agent_dependencies d where d.needs = need::public.turbo_task_id and d.gone is null limit 1) then
    insert into public.agent_unsettled (task_id, retried) values (need::public.turbo_task_id, true);
    perform public.turbo_tell_settler();
  end if;
end $$;

-- How many tasks wait for the end of this one: at most 10,000 are counted.
create or replace function public.turbo_waiters(need text) returns bigint
language plpgsql security definer set search_path = pg_catalog, pg_temp
  set enable_seqscan = off set plan_cache_mode = force_generic_plan as $$
begin
  return (select count(*)
            from (select from public.agent_dependencies d where d.needs = need::public.turbo_task_id and not d.settled and d.gone is null limit 10000) w);
end $$;

-- The count of a blocked task goes, and of its edges these: 'none', it is taken out of the line; 'held', the same, until it is released;
-- 'all', it waits for nothing any more; 'anew', those that are tied again, because it waits again. An edge to a need that is gone stays
-- as it is then: whoever retries a task means it, and history is deleted in time. A hold that is released is told of it.
create or replace function public.turbo_untie(task text, which text) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp
  set enable_seqscan = off set plan_cache_mode = force_generic_plan as $$
declare
  id public.turbo_task_id := task;
begin
  if current_setting('transaction_isolation') <> 'read committed' then
    -- A snapshot that does not see the count must not go on without it: this ends in 40001.
    insert into public.agent_blocked (task_id, needs_left) values (id, 0) on conflict (task_id) do nothing;
  end if;
  delete from public.agent_blocked b where b.task_id = id;
  if which = 'held' then
    update public.agent_dependencies d set settled = false where d.task_id = id and d.gone = 'unmet' and d.settled;
  elsif which <> 'none' then
    delete from public.agent_dependencies d
     where d.task_id = id
       and (which = 'all'
            or d.gone is null and (not d.settled or (select true from public.agent_tasks n where n.task_id = d.needs)));
  end if;
end $$;

-- A task of that id, or with that idempotency_key, is there: an insert with ON CONFLICT DO NOTHING adds none, and may name what is
-- gone.
create or replace function public.turbo_is_there(task text, key text) returns boolean
language plpgsql security definer set search_path = pg_catalog, pg_temp
  set enable_seqscan = off set plan_cache_mode = force_generic_plan as $$
begin
  return exists (select from public.agent_tasks t where t.task_id = task::public.turbo_task_id)
         or key is not null and exists (select from public.agent_tasks t where t.idempotency_key = key);
end $$;

-- The needs of a new task, judged: in their order, as task_id shows its values, each once. Every one must be there, as this
-- statement sees it, earlier rows of its own included: so no cycle can arise.
-- A function of its own, for its settings: planned in a session whose table was empty, a look-up by primary key would be a walk of
-- the table for every row of a bulk insert.
create or replace function public.turbo_judge_needs(task text, key text, needs text[]) returns text[]
language plpgsql security definer set search_path = pg_catalog, pg_temp
  set enable_seqscan = off set plan_cache_mode = force_generic_plan as $$
declare
  many    bigint := cardinality(needs);
  wanted  text[];
  one     text;
  missing text;
begin
  if array_position(needs, null) is not null then
    raise exception 'needs holds a null' using errcode = 'check_violation',
      hint = 'Write the ids of tasks: ARRAY[''plan'', ''build''].';
  end if;
  if many > 20000 then select count(distinct n.need) into many from unnest(needs) n(need); end if;
  if many > 20000 then
    raise exception 'needs has % ids, more than 20000', many using errcode = 'check_violation',
      hint = 'Let some of them be needed by a task between, and name that one.';
  end if;
  begin
    -- A look-up each: as NOT EXISTS it is planned as a hash of the whole table. A cast to a varchar cuts: that is no name of a task.
    select array_agg(k.id order by k.place), (array_agg(k.need order by k.place) filter (where k.is_missing))[1] into wanted, missing
      from (select n.id, min(n.place) as place, min(n.need) as need,
                   bool_or(starts_with(n.need, n.id) and n.need <> n.id)
                   or (select true from public.agent_tasks t where t.task_id = n.id::public.turbo_task_id) is null as is_missing
              from (select u.need, u.place, u.need::public.turbo_task_id::text as id
                      from unnest(needs) with ordinality u(need, place)) n
             group by n.id) k;
  exception when data_exception then              -- not of the type of task_id
    foreach one in array needs loop
      begin
        perform one::public.turbo_task_id;
      exception when data_exception then missing := one;
      end;
      exit when missing is not null;
    end loop;
  end;
  if task = any (wanted) then
    raise exception 'task % needs itself', public.turbo_shown(task::text, 200::integer) using errcode = 'check_violation',
      hint = 'Leave its own id out of needs.';
  end if;
  if missing is not null and (wanted is null or not public.turbo_is_there(task::text, key::text)) then
    raise exception 'needs names ''%'', and there is no such task', public.turbo_shown(nullif(missing, '')::text, 200::integer)
      using errcode = 'foreign_key_violation', hint = 'Insert the tasks it needs first, in an earlier row or statement.';
  end if;
  return wanted;
end $$;

-- The default of a column of agent_tasks, as text; null: it has none.
create or replace function public.turbo_default_of(name text) returns text
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  written text;
  value   text;
begin
  select pg_get_expr(d.adbin, d.adrelid) into written
    from pg_attrdef d join pg_attribute a on a.attrelid = d.adrelid and a.attnum = d.adnum
   where d.adrelid = 'public.agent_tasks'::regclass and a.attname = turbo_default_of.name and a.attgenerated = '';
  if written is not null then execute format('select (%s)::text', written) into value; end if;
  return value;
end $$;

-- A new follow-up, judged, with what it inherits. A value that equals the column's default counts as not given: the two cannot be
-- told apart. turbos: inserted by turbo, for somebody whose right was looked at before.
create or replace function public.turbo_judge_continues(
  task text, key text, turbos boolean,
  inout continues text, inout task_type text, inout queue text, inout timeout_seconds bigint, inout concurrency_key text)
language plpgsql security definer set search_path = pg_catalog, pg_temp
  set enable_seqscan = off set plan_cache_mode = force_generic_plan as $$
declare
  named   text := continues;
  id      text;
  other   record;
  there   boolean := false;
  by_whom name := case current_setting('role') when 'none' then session_user else current_setting('role')::name end;
begin
  begin
    id := named::public.turbo_task_id;
    select t.task_type, t.queue, t.timeout_seconds, t.concurrency_key, t.submitted_by, t.status::text as status,
           num_nonnulls(t.fencing_token, t.agent_session_id) > 0 as ran
      into other
      from public.agent_tasks t
     where t.task_id = named::public.turbo_task_id and not (starts_with(named, id) and named <> id);
    there := found;
    continues := id;
  exception when data_exception then null;        -- not of the type of task_id
  end;
  if task = id then
    raise exception 'task % continues itself', public.turbo_shown(nullif(named, '')::text, 200::integer)
      using errcode = 'check_violation', hint = 'Name the task whose conversation is to go on.';
  end if;
  -- The right comes first, whatever this insert adds: what the snapshot of an older transaction still shows may be gone.
  if there then
    if other.submitted_by is distinct from session_user and not turbos
       and not has_column_privilege(by_whom, 'public.agent_tasks', 'status', 'update') then
      raise exception 'task % is not yours: it was submitted by %', public.turbo_shown(nullif(named, '')::text, 200::integer),
        public.turbo_shown(coalesce(other.submitted_by, 'nobody known')::text, 63::integer) using errcode = 'insufficient_privilege',
        hint = 'Insert a task of its own, or ask somebody who may update status.';
    end if;
  end if;
  if id is not null and public.turbo_is_there(task::text, key::text) then return; end if;
  if not there then
    raise exception 'continues names ''%'', and there is no such task', public.turbo_shown(nullif(named, '')::text, 200::integer)
      using errcode = 'foreign_key_violation', hint = 'Name the task whose conversation is to go on.';
  end if;
  if other.status in ('completed', 'failed', 'cancelled') and not other.ran then
    raise exception 'task % never ran and is %: there is no conversation to go on with',
      public.turbo_shown(nullif(named, '')::text, 200::integer), other.status
      using errcode = 'foreign_key_violation', hint = 'Insert a task of its own.';
  end if;
  if concurrency_key is not null and concurrency_key is distinct from other.concurrency_key then
    raise exception 'a follow-up may not have a concurrency_key of its own' using errcode = 'check_violation',
      hint = 'Leave it out: it inherits that of the task that it continues.';
  end if;
  concurrency_key := other.concurrency_key;
  if task_type = 'default' or task_type = public.turbo_default_of('task_type'::text) then task_type := other.task_type; end if;
  if queue = 'default' or queue = public.turbo_default_of('queue'::text) then queue := other.queue; end if;
  if timeout_seconds = 300 or timeout_seconds::text = public.turbo_default_of('timeout_seconds'::text) then
    timeout_seconds := other.timeout_seconds;
  end if;
end $$;

revoke all on function
  public.turbo_tell_settler(), public.turbo_tell_of_messages(text), public.turbo_note_work(text), public.turbo_note_need(text), public.turbo_waiters(text),
  public.turbo_untie(text, text), public.turbo_is_there(text, text), public.turbo_judge_needs(text, text, text[]),
  public.turbo_default_of(text), public.turbo_judge_continues(text, text, boolean, text, text, text, bigint, text)
  from public;
-- turbo: next
-- What is inserted, judged. An ordinary row passes by the first expression. A row that waits for others becomes 'blocked', always.
create or replace function public.turbo_judge_insert() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  adopted  boolean;
  turbos   boolean;     -- inserted by a function of turbo's own: turbo_rev is -1, which nobody else may write
  restored boolean := false;
  longest  integer;     -- of the ids in needs and continues, in bytes
  at_rest  boolean;     -- it may never have been written by turbo, and is not what one inserts
begin
  if new.status = 'pending' and new.run_after <= now() and isfinite(new.run_after)
     and (new.queue = 'default' or new.queue ~ '^[a-z0-9_-]{1,40}$')
     and new.task_type is not null and new.retry_count >= 0
     and new.created_at <= now() and new.created_at > '-infinity'
     and ascii(new.task_id::text) > 32 and octet_length(new.task_id::text) <= 2048
     and new.task_description ~ '[^[:space:]]'
     and new.timeout_seconds >= 1 and new.max_retries >= 0
     and new.turbo_rev = 0 and new.infra_count = 0
     and num_nonnulls(new.fencing_token, new.agent_session_id, new.cancel_to, new.cancel_requested_at, new.question, new.answer,
                      new.prefer_host, new.needs, new.on_needs_failed, new.continues, new.needed, new.conversation) = 0
     and new.submitted_by is not null
     and (new.concurrency_key is null or length(new.concurrency_key) <= 500)
     and (new.idempotency_key is null
          or length(new.idempotency_key) <= 500 and left(new.idempotency_key, 8) not in ('schedule', 'message '))
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
  new.needs           := nullif(new.needs, '{}');
  new.question        := nullif(new.question, 'null');    -- what some mappers write for none
  if new.task_id is null and not adopted then
    new.task_id := 't_' || left(replace(gen_random_uuid()::text, '-', ''), 20);
  end if;

  -- A data-only restore brings back rows as turbo left them: claimed, running, finished, blocked. It is taken as one from the
  -- owner of the table (the role set with SET ROLE, if any), by COPY or where turbo.restore is on. It gives nobody anything: an
  -- owner may switch triggers off. A row that is held, or waits for others, may never have been written by turbo (turbo_rev 0).
  -- The notes of its settler come back by themselves.
  at_rest := new.question is not null
             or num_nonnulls(new.needs, new.continues) > 0
                and new.status::text in ('blocked', 'waiting', 'completed', 'failed', 'cancelled');
  if new.turbo_rev > 0 or at_rest or new.submitted_by is null then
    restored := (current_query() ~* '^[[:space:]]*copy[[:space:]]' or coalesce(current_setting('turbo.restore', true), '') = 'on')
                and (select pg_has_role(case current_setting('role') when 'none' then session_user
                                          else current_setting('role')::name end, c.relowner, 'usage')
                       from pg_class c where c.oid = tg_relid);
  end if;
  if restored
     and new.turbo_rev between (case when at_rest then 0 else 1 end) and 9007199254740992 and isfinite(new.run_after)
     and (adopted or new.status::text in ('scheduled', 'pending', 'blocked', 'running', 'waiting', 'completed', 'failed', 'cancelled'))
  then return new; end if;
  if new.submitted_by is null and not restored then new.submitted_by := session_user; end if;
  turbos := new.turbo_rev = -1;
  if turbos then new.turbo_rev := 1; end if;

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
  if not adopted and new.status::text = 'blocked' and num_nonnulls(new.needs, new.continues) = 0 then
    raise exception 'a task that waits for no other cannot be inserted as blocked' using errcode = 'check_violation',
      hint = 'Name in needs the tasks it waits for, or write ''waiting'' to hold it until a person releases it.';
  end if;
  if not adopted
     and new.status::text not in ('pending', 'scheduled', 'blocked', 'waiting', 'completed', 'failed', 'cancelled') then
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
  if new.idempotency_key ~ '^(schedule|message) ' and not turbos then
    raise exception 'idempotency keys that begin with % are turbo''s own',
      quote_literal(substring(new.idempotency_key from '^[a-z]+ ')) using errcode = 'check_violation', hint = 'Write another key.';
  end if;
  if new.fencing_token is not null or new.agent_session_id is not null then
    raise exception 'an insert may not set fencing_token or agent_session_id' using errcode = 'check_violation',
      hint = 'Leave both out: turbo sets the token when a worker claims the task. To go on with a conversation, name its task in continues.';
  end if;
  if num_nonnulls(new.question, new.answer, new.prefer_host) > 0 then
    raise exception 'an insert may not set question, answer or prefer_host' using errcode = 'check_violation',
      hint = 'Leave these columns out. To hold the task until a person releases it, write status ''waiting''.';
  end if;
  if new.turbo_rev <> turbos::int or new.infra_count <> 0
     or num_nonnulls(new.cancel_to, new.cancel_requested_at, new.needed, new.conversation) > 0 then
    raise exception 'an insert may not set turbo_rev, infra_count, cancel_to, cancel_requested_at, needed or conversation'
      using errcode = 'check_violation', hint = 'Leave these columns out: they are turbo''s own.';
  end if;
  if new.on_needs_failed not in ('cancel', 'run', 'wait') then
    raise exception 'on_needs_failed is %', quote_literal(left(new.on_needs_failed, 60)) using errcode = 'check_violation',
      hint = 'Write ''cancel'', ''run'' or ''wait'', or leave it out for ''cancel''.';
  end if;
  if num_nonnulls(new.needs, new.continues) > 0 then
    -- An index holds pairs of ids: 2704 bytes. Also of a task and the one before it in its conversation, which nobody knows yet.
    longest := greatest(octet_length(new.task_id::text), octet_length(new.continues),
                        (select max(octet_length(n.need)) from unnest(new.needs) n(need)));
    if longest > 1300 then
      raise exception 'needs, continues, or the task_id beside them, has an id of % bytes, more than 1300', longest
        using errcode = 'check_violation', hint = 'Give tasks that others wait for, or that wait for others, shorter ids, or a hash: md5(...).';
    end if;
  end if;
  if new.needs is not null then
    new.needs := public.turbo_judge_needs(new.task_id::text, new.idempotency_key::text, new.needs::text[]);
  end if;
  if new.continues is not null then
    select j.continues, j.task_type, j.queue, j.timeout_seconds, j.concurrency_key
      into new.continues, new.task_type, new.queue, new.timeout_seconds, new.concurrency_key
      from public.turbo_judge_continues(new.task_id::text, new.idempotency_key::text, turbos::boolean, new.continues::text,
                                        new.task_type::text, new.queue::text, new.timeout_seconds::bigint, new.concurrency_key::text) j;
  end if;

  if new.status::text = 'waiting' then
    new.question  := public.turbo_hold(new.task_description::text, new.run_after::timestamptz, null::jsonb, null::text);
    new.run_after := '9000-01-01 00:00:00+00';
    if num_nonnulls(new.needs, new.continues) > 0 then       -- for its place, and so that it learns whether a need is deleted
      insert into public.agent_unsettled (task_id) values (new.task_id);
    end if;
  elsif num_nonnulls(new.needs, new.continues) > 0 and new.status::text in ('pending', 'scheduled', 'blocked') then
    new.status := 'blocked';       -- even if all of them are over: to decide that is the settler's
    insert into public.agent_unsettled (task_id) values (new.task_id);     -- as turbo_note_work, which costs more than both
    if current_setting('turbo.notify', true) is distinct from 'off' and pg_notification_queue_usage() <= 0.5 then
      perform pg_notify('turbo_ctl', 'settle');
    end if;
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
    'cancel_requested_at', 'cancel_to', 'infra_count', 'turbo_rev', 'question', 'answer', 'prefer_host',
    'needs', 'on_needs_failed', 'parent_task_id', 'continues', 'needed', 'conversation', 'submitted_by'];
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
  return new;
end $$;

-- As before, with the names made visible: an id may hold what steers a terminal.
create or replace function public.turbo_judge_delete() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  raise exception 'task % is running on %', public.turbo_shown(old.task_id::text, 200::integer),
    public.turbo_shown(old.assigned_worker_id::text, 100::integer) using errcode = 'object_in_use',
    hint = 'Cancel it first: UPDATE agent_tasks SET status = ''cancelled'' WHERE task_id = ...; delete the row once its status says so.';
end $$;

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
    if old.needed then perform public.turbo_tell_settler(); else perform public.turbo_tell_of_messages(old.task_id::text); end if;
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
-- turbo: next
-- Tasks are deleted which others name in `needs`, and are not tied to yet: a note for each. The next task of that id is a stranger, and
-- would be tied in its place. deleted: their ids; completed: of these, what counts as met.
create or replace function public.turbo_forget_untied(deleted text[], completed text[]) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp
  set enable_seqscan = off set plan_cache_mode = force_generic_plan as $$
begin
  insert into public.agent_unsettled (task_id, need, met)
  select u.task_id, n.need::public.turbo_task_id, t.mode = 'run' or n.need = any (completed)
    from (select distinct u.task_id from public.agent_unsettled u) u
   cross join lateral (select t.needs, coalesce(t.on_needs_failed, 'cancel') as mode from public.agent_tasks t
                        where t.task_id = u.task_id and t.status::text in ('blocked', 'waiting') and t.needs::text[] && deleted
                       offset 0) t
   cross join lateral (select distinct unnest(t.needs) as need) n
   where u.task_id::text <> all (deleted) and n.need = any (deleted)
     and (select true from public.agent_dependencies d where d.task_id = u.task_id and d.needs = n.need::public.turbo_task_id) is null;
end $$;
revoke all on function public.turbo_forget_untied(text[], text[]) from public;

-- The edges to tasks that are deleted (`ids`, of them `gone` is what they were, as JSON), marked, and counted for those who wait. Those
-- who wait are locked, in the order of their ids: the settler passes them by meanwhile. It waits for nobody: of what somebody has
-- locked it leaves a note for each edge.
create or replace function public.turbo_forget_needs(ids text[], gone json) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp
  set enable_seqscan = off set plan_cache_mode = force_generic_plan as $$
declare
  named public.turbo_task_id[];
  mine  public.turbo_task_id[];
begin
  named := array(select distinct d.task_id from public.agent_dependencies d
                  where d.needs = any (ids::public.turbo_task_id[]) and d.gone is null
                    and d.task_id not in (select i.id::public.turbo_task_id from unnest(ids) i(id)));
  if named = '{}' then return; end if;
  mine := array(select t.task_id from public.agent_tasks t
                 where t.task_id = any (named) and t.status is not distinct from 'blocked'
                 order by t.task_id for no key update skip locked);
  -- IN and NOT IN over what was unnested are looked up in a hash; two conditions with ANY would be a look into the index for each pair.
  with wanted as materialized (
    select d.task_id, d.needs, d.mode, d.settled, d.task_id in (select m.id from unnest(mine) m(id)) as waits
      from public.agent_dependencies d
     where d.needs = any (ids::public.turbo_task_id[]) and d.gone is null
       and d.task_id not in (select i.id::public.turbo_task_id from unnest(ids) i(id))
  ), locked as materialized (
    select d.task_id, d.needs
      from public.agent_dependencies d
     where d.needs = any (ids::public.turbo_task_id[]) and d.gone is null
       and d.task_id not in (select i.id::public.turbo_task_id from unnest(ids) i(id))
       and (d.task_id in (select m.id from unnest(mine) m(id))
            or (select t.status is not distinct from 'blocked' from public.agent_tasks t where t.task_id = d.task_id) is not true)
       for update of d skip locked
  ), judged as materialized (
    select w.*, (w.task_id, w.needs) in (select l.task_id, l.needs from locked l) as locked, k.skipped,
           public.turbo_met(w.mode::text, k.ended::text, w.before::boolean) as met
      from (select w.*, (select c.after = w.needs from public.agent_conversations c where c.task_id = w.task_id) is true as before
              from wanted w) w
      join (select g.task_id, g.conversation,
                   case when not g.ran and g.status not in ('completed', 'failed') then 'unrun' else g.status end as ended,
                   -- closed before it ever ran: who comes after it waits for the one before that, and is tied anew
                   g.status in ('completed', 'failed') and not g.begun as closed
              from json_to_recordset(gone) as g(task_id text, status text, ran boolean, begun boolean, conversation bigint)) g on g.task_id = w.needs::text
     cross join lateral (select g.ended,
                                g.closed and g.conversation is not null
                                and (select c.conversation from public.agent_conversations c where c.task_id = w.task_id)
                                    is not distinct from g.conversation as skipped) k
  ), marked as (
    update public.agent_dependencies d
       set gone = case when j.met or j.skipped then 'met' else 'unmet' end, settled = d.settled or j.waits or j.met or j.skipped
      from judged j
     where j.locked and d.task_id = j.task_id and d.needs = j.needs
  ), told as (
    -- One that was counted as met, and did not complete after all: it was retried, or corrected, and no settler came by since.
    select j.task_id, count(*) filter (where j.met and not j.skipped and not j.settled) as met,
           min(j.needs::text) filter (where not j.met and not j.skipped) as failed
      from judged j where j.locked and j.waits and (not j.settled or not j.met)
     group by j.task_id
  ), noted as (
    insert into public.agent_unsettled (task_id, need, met)
    select j.task_id, j.needs, j.met or j.skipped from judged j where not j.locked
    union all
    select distinct j.task_id, null::public.turbo_task_id, null::boolean from judged j where j.locked and j.waits and not j.settled and j.skipped
  )
  update public.agent_blocked b
     set needs_left = b.needs_left - t.met, failed_need = coalesce(b.failed_need, t.failed)
    from told t
   where b.task_id = t.task_id;
  -- One that was counted as failed, and completed after all.
  mine := array(select b.task_id from public.agent_blocked b
                 where b.task_id = any (mine)
                   and (select d.gone = 'met' from public.agent_dependencies d
                         where d.task_id = b.task_id and d.needs = b.failed_need::public.turbo_task_id)
                   for update);
  if mine <> '{}' then perform public.turbo_count_anew(mine::public.turbo_task_id[]); end if;
  perform public.turbo_tell_settler();
end $$;
revoke all on function public.turbo_forget_needs(text[], json) from public;

-- The places of tasks that are deleted (`ids`), for those who came after them. closed: of them, those that a person closed before they
-- ever ran. Who came after another is looked up by the index, one by one: not by the conversation, which may be thousands long.
create or replace function public.turbo_forget_places(ids text[], closed text[]) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp
  set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set plan_cache_mode = force_generic_plan as $$
begin
  -- Who came after one that was closed before it ever ran goes on from the one before that.
  while closed <> '{}' loop
    update public.agent_conversations o set after = n.after
      from (select f.task_id, c.after
              from public.agent_conversations c
             cross join lateral (select f.task_id, f.conversation from public.agent_conversations f where f.after = c.task_id offset 0) f
             where c.task_id = any (closed::public.turbo_task_id[]) and f.conversation = c.conversation offset 0) n
     where o.task_id = n.task_id;
    exit when not found;
  end loop;
  -- Who came after another goes on with a session of its own: the id may be a stranger's next time.
  -- Counted already, and not tied yet: it is counted for one more than it waits for, and so counted again.
  with next as (
    update public.agent_conversations o set after = null
      from (select f.task_id, c.task_id as before
              from public.agent_conversations c
             cross join lateral (select f.task_id, f.conversation from public.agent_conversations f where f.after = c.task_id offset 0) f
             where c.task_id = any (ids::public.turbo_task_id[]) and f.conversation = c.conversation offset 0) n
     where o.task_id = n.task_id
    returning o.task_id, n.before
  )
  insert into public.agent_unsettled (task_id)
  select n.task_id from next n
   where (select true from public.agent_dependencies d where d.task_id = n.task_id and d.needs = n.before) is null
     and (select true from public.agent_blocked b where b.task_id = n.task_id);
  if found then perform public.turbo_tell_settler(); end if;
end $$;
revoke all on function public.turbo_forget_places(text[], text[]) from public;

-- What belongs to a task goes with it, in the transaction that deletes it: ids are the callers' and come again. Edges, counts and
-- places of a task that is gone must not answer for the next one of that name.
-- A need that is deleted completed counts as met; any other one as a cancellation.
create or replace function public.turbo_forget() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp
  set enable_seqscan = off set plan_cache_mode = force_generic_plan as $$
declare
  ids public.turbo_task_id[];
begin
  if tg_op = 'TRUNCATE' then
    -- No TRUNCATE here: it would wait for the settler with one table locked, and the settler for it.
    delete from public.agent_blocked;
    delete from public.agent_dependencies;
    delete from public.agent_conversations;
    delete from public.agent_unsettled u where u.need is not null or u.retried;
    return null;
  end if;
  if exists (select from public.agent_unsettled) then
    perform public.turbo_forget_untied(array(select g.task_id::text from gone g)::text[],
                                       array(select g.task_id::text from gone g where g.status::text = 'completed')::text[]);
  end if;
  if exists (select from public.agent_dependencies) then
    perform public.turbo_forget_needs(
      array(select g.task_id::text from gone g)::text[],
      (select json_agg(json_build_object('task_id', g.task_id::text, 'status', g.status::text, 'conversation', g.conversation,
                                         'ran', g.fencing_token is not null,
                                         'begun', num_nonnulls(g.fencing_token, g.agent_session_id) > 0)) from gone g)::json);
  end if;
  ids := array(select g.task_id from gone g where num_nonnulls(g.needs, g.continues, g.needed, g.conversation) > 0);
  if exists (select from public.agent_conversations) then        -- the first task of one may have a place, and not know it yet
    ids := ids || array(select g.task_id from gone g where num_nonnulls(g.needs, g.continues, g.needed, g.conversation) = 0
                           and (select true from public.agent_conversations c where c.task_id = g.task_id));
  end if;
  if cardinality(ids) = 0 then return null; end if;

  if current_setting('transaction_isolation') <> 'read committed' then
    -- A count (and edges) that this snapshot does not see would stay: 40001 instead.
    insert into public.agent_blocked (task_id, needs_left)
    select g.task_id, 0 from gone g where g.status::text = 'blocked' on conflict (task_id) do nothing;
  end if;
  delete from public.agent_blocked b where b.task_id = any (ids);
  delete from public.agent_dependencies d where d.task_id = any (ids);
  delete from public.agent_unsettled u where (u.need is not null and u.need <> u.task_id or u.retried) and u.task_id = any (ids);
  if current_setting('transaction_isolation') <> 'read committed' then
    -- Edges that this snapshot does not see, as a note says that names the task twice (turbo_bury).
    insert into public.agent_unsettled (task_id, need, met)
    select g.task_id, g.task_id,
           case when g.status::text = 'completed' then true when g.status::text = 'failed' or g.fencing_token is not null then false end
      from gone g where g.needed is not null;
    perform public.turbo_tell_settler();
  end if;
  perform public.turbo_forget_places(ids::text[], array(select g.task_id::text from gone g
                                                         where g.conversation is not null and g.status::text in ('completed', 'failed')
                                                           and num_nonnulls(g.fencing_token, g.agent_session_id) = 0)::text[]);
  -- Those that are left go on working in the directory that its input named.
  update public.agent_conversations o set directory = k.directory
    from (select distinct on (k.conversation) k.conversation, k.directory
            from gone g
           cross join lateral (select c.conversation, c.place,
                                      coalesce(c.directory, jsonb_build_object('cwd', left(g.input_data ->> 'cwd', 16385),
                                                                               'ref', left(g.input_data ->> 'ref', 16385))) as directory
                                 from public.agent_conversations c
                                where c.task_id = g.task_id and (c.directory is not null or c.place = 0) offset 0) k
           order by k.conversation, k.place offset 0) k
   where o.conversation = k.conversation and o.directory is null;
  delete from public.agent_conversations c where c.task_id = any (ids);
  return null;
end $$;
revoke all on function public.turbo_forget() from public;

create or replace trigger turbo_forget_delete after delete on public.agent_tasks
  referencing old table as gone for each statement execute function public.turbo_forget();
create or replace trigger turbo_forget_truncate after truncate on public.agent_tasks
  for each statement execute function public.turbo_forget();
