-- turbo: compatible-from 3
-- Schedules: tasks that repeat. The slots of a schedule are computed by a worker (cron expressions are read there, by cronsim), from the
-- clock of this database; a slot's task and the move to the next slot are one transaction (turbo_fire), so whoever computes, and how
-- many of them at once, makes no difference.

-- A table of this name that is there already is the deployment's own, and means something else: nothing is changed then.
do $$
begin
  if to_regclass('public.agent_schedules') is not null
     and coalesce(obj_description(to_regclass('public.agent_schedules'), 'pg_class'), '') not like '%(turbo)' then
    raise exception 'there is a table agent_schedules already, and turbo needs one of this name for itself'
      using errcode = 'duplicate_table',
      hint = 'Rename it (ALTER TABLE public.agent_schedules RENAME TO ...) and run turbo migrate again.';
  end if;
end $$;

create table if not exists public.agent_schedules (
  name              text primary key,
  cron              text not null,
  timezone          text not null default 'UTC',
  enabled           boolean not null default true,
  overlap           text not null default 'skip' check (overlap in ('skip', 'queue')),
  catch_up          text not null default 'one' check (catch_up in ('none', 'one', 'all')),
  jitter_seconds    integer not null default 0 check (jitter_seconds between 0 and 86400),
  max_failures      integer check (max_failures >= 1),
  -- the task; null: the default of that column of agent_tasks
  task_type         text,
  task_description  text not null,
  task_priority     integer,
  input_data        jsonb,
  queue             text,
  timeout_seconds   integer,
  max_retries       integer,
  concurrency_key   text,
  created_by        text not null default session_user,
  created_at        timestamptz not null default now(),
  updated_at        timestamptz not null default now(),
  -- turbo's own
  since             timestamptz not null default now() check (since between '1970-01-01 00:00+00' and '9000-01-01 00:00+00'),
  next_at           timestamptz check (next_at between '1970-01-01 00:00+00' and '9000-01-01 00:00+00'),
  last_at           timestamptz check (last_at between '1970-01-01 00:00+00' and '9000-01-01 00:00+00'),
  fired_at          timestamptz check (fired_at between '1970-01-01 00:00+00' and '9000-01-01 00:00+00'),
  run_at            timestamptz,
  skipped_at        timestamptz,
  skipped           bigint not null default 0,
  failures          integer not null default 0,
  error             text,
  open_slots        timestamptz[] not null default '{}',
  rev               bigint not null default 0
) with (fillfactor = 50, autovacuum_vacuum_threshold = 200, autovacuum_vacuum_scale_factor = 0.02);
comment on table public.agent_schedules is
  'tasks that repeat: INSERT INTO agent_schedules (name, cron, timezone, task_description) VALUES (''nightly'', ''0 3 * * *'', ''Europe/Berlin'', ''...'') (turbo)';
comment on column public.agent_schedules.cron is 'minute hour day month weekday, or six fields with the second first';
comment on column public.agent_schedules.overlap is 'skip: no task at a slot while one of its tasks is not over; queue: at every slot';
comment on column public.agent_schedules.catch_up is 'of slots that nobody fired for more than a minute: none, one (the latest), or all (the latest 100)';
comment on column public.agent_schedules.since is 'slots count from here: the insert, the last change of cron or timezone, or the last resume';
comment on column public.agent_schedules.next_at is 'the next slot, or the first one that is overdue; null: a worker is to compute it, or it has none';
comment on column public.agent_schedules.last_at is 'the last slot that was dealt with: fired or passed over';
comment on column public.agent_schedules.fired_at is 'the last slot that has a task, with the idempotency_key ''schedule NAME@SLOT''';
comment on column public.agent_schedules.run_at is 'the last run by hand (turbo_run_schedule)';
comment on column public.agent_schedules.skipped is 'how many slots were passed over: one of its tasks was not over, or catch_up said so; skipped_at: the last of them';
comment on column public.agent_schedules.failures is 'how many of its tasks failed or were refused in a row';
comment on column public.agent_schedules.error is 'why it does not fire, or why its last task was refused; null: all is well';
comment on column public.agent_schedules.open_slots is 'slots whose tasks were not over when they were last looked at';
comment on column public.agent_schedules.rev is 'raised by every write; an UPDATE leaves it alone';

-- Who is due next, and who has no next slot yet. A schedule that cannot be computed (no next_at, and an error) waits for a person.
create index if not exists agent_schedules_due on public.agent_schedules (next_at nulls first)
  where enabled and (next_at is not null or error is null);

-- The idempotency key of a slot's task. A slot is a whole second; a run by hand is told apart by its fraction.
create or replace function public.turbo_schedule_key(name text, slot timestamptz) returns text
language sql immutable set search_path = pg_catalog, pg_temp as $$
  select 'schedule ' || name || '@' || to_char(slot at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS')
         || case when slot = date_trunc('second', slot, 'UTC') then '' else to_char(slot at time zone 'UTC', '.US') end || 'Z'
$$;

-- Inserts the task of one slot, as the schedule says; what it leaves null gets the default of agent_tasks. Returns its id; null: the
-- slot has its task already. Raises what the insert raises. The id can be read, NAME-20261127T030000Z, and is another one where that
-- is taken, or held by a transaction that is open; an adopted table gets an id as it makes them. turbo_rev -1: turbo's own insert.
create or replace function public.turbo_schedule_task(s public.agent_schedules, slot timestamptz, due timestamptz) returns text
language plpgsql security definer set search_path = pg_catalog, pg_temp
  set enable_seqscan = off set plan_cache_mode = force_generic_plan set lock_timeout = '100ms' as $$
declare
  key     text := public.turbo_schedule_key(s.name::text, slot::timestamptz);
  id_type text := (select format_type(y.typbasetype, -1) from pg_type y where y.oid = 'public.turbo_task_id'::regtype);
  keyed   boolean;      -- the table makes ids
  named   boolean;      -- they may be as turbo likes
  room    integer;      -- characters of an id
  id      text;
  names   text := '';
  vals    text := '';
  one     record;
  made    text;
begin
  select a.atthasdef or a.attidentity <> '', coalesce(nullif(a.atttypmod, -1) - 4, 2048),
         coalesce(pg_get_expr(d.adbin, d.adrelid) like '(''t_''::text ||%', true)        -- the default that turbo made
    into keyed, room, named
    from pg_attribute a left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
   where a.attrelid = 'public.agent_tasks'::regclass and a.attname = 'task_id';
  named := named and id_type in ('text', 'character varying') and room >= 40;
  for one in
    select v.name, v.value
      from (values ('task_type', s.task_type), ('task_priority', s.task_priority::text), ('input_data', s.input_data::text), ('queue', s.queue),
                   ('timeout_seconds', s.timeout_seconds::text), ('max_retries', s.max_retries::text), ('concurrency_key', s.concurrency_key))
           v(name, value)
     where v.value is not null
  loop
    names := names || ', ' || one.name;
    vals  := vals || ', ' || quote_literal(one.value);
  end loop;
  if named then
    id := coalesce(nullif(left(trim(both '-' from regexp_replace(s.name, '[^A-Za-z0-9._]+', '-', 'g')), least(60, room - 26)), ''), 'schedule')
          || to_char(slot at time zone 'UTC', '-YYYYMMDD"T"HH24MISS"Z"');
  elsif not keyed then
    id := case when id_type = 'uuid' then gen_random_uuid()::text
               when id_type in ('text', 'character varying', 'character') then left(replace(gen_random_uuid()::text, '-', ''), room) end;
  end if;
  for attempt in 1..2 loop
    begin
      execute format('insert into public.agent_tasks (%s task_description, run_after, idempotency_key, submitted_by, turbo_rev%s)
                      values (%s $1, $2, $3, $4, -1%s) returning task_id::text',
                     case when id is not null then 'task_id,' else '' end, names,
                     case when id is not null then quote_literal(id) || ',' else '' end, vals)
        into made using s.task_description, due, key, s.created_by;
      return made;
    exception when unique_violation or lock_not_available then
      if (select true from public.agent_tasks t where t.idempotency_key = key) then return null; end if;
      if attempt = 2 or not named then raise; end if;
      id := id || '-' || left(replace(gen_random_uuid()::text, '-', ''), 8);
    end;
  end loop;
end $$;

-- When a slot's task is to run: after a delay that is random, below jitter_seconds, and always the same for one slot.
create or replace function public.turbo_schedule_due(s public.agent_schedules, slot timestamptz, present timestamptz) returns timestamptz
language sql immutable set search_path = pg_catalog, pg_temp as $$
  select greatest(present, slot + make_interval(secs => s.jitter_seconds * (
           (hashtextextended(public.turbo_schedule_key(s.name::text, slot::timestamptz), 0) & 9007199254740991)::float8 / 9007199254740992)))
$$;

-- One field of a cron expression, by its place (1: seconds … 6: weekday): whether cronsim could take it. What it says of ranges that
-- run backwards, and of days that no month has, is cronsim's alone: a worker writes that into error.
create or replace function public.turbo_is_cron_field(field text, place integer) returns boolean
language sql immutable set search_path = pg_catalog, pg_temp as $$
  select field ~* ('^(' || item.one || ')(,(' || item.one || '))*$')
    from (select '(\*|' || n.n || '(-' || n.n || ')?)(/0*[1-9][0-9]{0,5})?'
                 || case place when 4 then '|LW?(/0*[1-9][0-9]{0,5})?' when 6 then '|' || n.n || '#0*[1-5]|0*[0-7]L' else '' end as one
            from (select case place when 3 then '0*([01]?[0-9]|2[0-3])'
                                    when 4 then '0*([1-9]|[12][0-9]|3[01])'
                                    when 5 then '(0*([1-9]|1[0-2])|JAN|FEB|MAR|APR|MAY|JUN|JUL|AUG|SEP|OCT|NOV|DEC)'
                                    when 6 then '(0*[0-7]|SUN|MON|TUE|WED|THU|FRI|SAT)'
                                    else '0*[0-5]?[0-9]' end as n) n) item
$$;

-- What is written by hand, judged. What the schedule's task would be refused for is refused now: the task is inserted, and taken back.
-- A restore brings rows back as they were: it is the owner's COPY, or has turbo.restore on, and its rows are older than its transaction.
-- turbo's own statements, and nothing else, raise rev by one; a hand edit mends: it clears the error, and the count of failures.
create or replace function public.turbo_judge_schedule() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  by_whom name := case current_setting('role') when 'none' then session_user else current_setting('role')::name end;
  shown   text := public.turbo_shown(left(new.name, 200)::text, 200::integer);
  fields  text[];
begin
  if tg_op = 'INSERT' then
    if new.created_at < transaction_timestamp() and new.created_by is not null
       and (current_query() ~* '^[[:space:]]*copy[[:space:]]' or coalesce(current_setting('turbo.restore', true), '') = 'on')
       and (select pg_has_role(by_whom, c.relowner, 'usage') from pg_class c where c.oid = tg_relid)
    then return new; end if;
    new.created_by := session_user; new.created_at := now(); new.updated_at := now(); new.since := now();
    new.next_at := null; new.last_at := null; new.fired_at := null; new.run_at := null; new.skipped_at := null;
    new.skipped := 0; new.failures := 0; new.error := null; new.open_slots := '{}'; new.rev := 0;
  else
    if new.rev = old.rev + 1 then return new; end if;
    if new.rev is distinct from old.rev then
      raise exception 'schedule % has changed since it was read: its rev is %, not %', shown, old.rev, coalesce(new.rev::text, 'null')
        using errcode = 'serialization_failure',
        hint = 'Read the row again, and write only the columns that you change; leave rev out of the UPDATE.';
    end if;
    if new.name is distinct from old.name then
      raise exception 'the name of schedule % cannot change', public.turbo_shown(left(old.name, 200)::text, 200::integer)
        using errcode = 'check_violation', hint = 'Insert another schedule, and delete this one.';
    end if;
    if new.created_by is distinct from old.created_by then
      raise exception 'created_by of schedule % cannot change: its tasks are submitted in that name', shown
        using errcode = 'check_violation', hint = 'Leave it out of the UPDATE, or insert another schedule.';
    end if;
    new.created_at := old.created_at; new.updated_at := now(); new.rev := old.rev + 1;
  end if;

  if new.name is null or new.name !~ '[^[:space:]]' or length(new.name) > 200 or new.name ~ '[[:cntrl:]]' then
    raise exception '%', case when new.name is null or new.name !~ '[^[:space:]]' then 'the name of a schedule is empty'
                              when length(new.name) > 200 then format('the name of a schedule has %s characters, more than 200', length(new.name))
                              else format('the name of schedule %s has a control character', shown) end
      using errcode = 'check_violation', hint = 'Write a short name, as in ''nightly-triage''.';
  end if;
  fields := regexp_split_to_array(trim(both E' \t' from new.cron), '[ \t]+');
  if cardinality(fields) = 5 then fields := '{0}' || fields; end if;
  if new.cron is null or cardinality(fields) <> 6 or length(new.cron) > 1000 then
    raise exception 'cron of schedule % is %', shown,
      case when new.cron is null then 'null' when length(new.cron) > 1000 then format('%s characters long, more than 1000', length(new.cron))
           else '''' || public.turbo_shown(new.cron::text, 60::integer) || ''', and has neither five fields nor six' end
      using errcode = 'check_violation', hint = 'Write minute, hour, day, month and weekday: ''0 3 * * *'' is every day at three.';
  end if;
  for i in 1..6 loop
    if not public.turbo_is_cron_field(fields[i]::text, i::integer) then
      raise exception 'cron of schedule % has % as its %', shown, '''' || public.turbo_shown(fields[i]::text, 60::integer) || '''',
        ('{second,minute,hour,day of the month,month,weekday}'::text[])[i]
        using errcode = 'check_violation', hint = 'Write minute, hour, day, month and weekday: ''0 3 * * *'' is every day at three.';
    end if;
  end loop;
  if tg_op = 'INSERT' or new.timezone is distinct from old.timezone then
    if new.timezone is null or new.timezone in ('localtime', 'posixrules', 'Factory')
       or not exists (select from pg_timezone_names z where z.name = new.timezone) then
      raise exception 'timezone % is unknown', case when new.timezone is null then 'null' else '''' || public.turbo_shown(new.timezone::text, 60::integer) || '''' end
        using errcode = 'check_violation', hint = 'Write a name as in ''Europe/Berlin'', with its capitals, or leave it out for ''UTC''.';
    end if;
  end if;
  if coalesce(new.overlap, '') not in ('skip', 'queue') then
    raise exception 'overlap is %', coalesce(quote_literal(left(new.overlap, 60)), 'null') using errcode = 'check_violation',
      hint = 'Write ''skip'' or ''queue'', or leave it out for ''skip''.';
  end if;
  if coalesce(new.catch_up, '') not in ('none', 'one', 'all') then
    raise exception 'catch_up is %', coalesce(quote_literal(left(new.catch_up, 60)), 'null') using errcode = 'check_violation',
      hint = 'Write ''none'', ''one'' or ''all'', or leave it out for ''one''.';
  end if;
  if new.jitter_seconds is null or new.jitter_seconds not between 0 and 86400 then
    raise exception 'jitter_seconds is %', coalesce(new.jitter_seconds::text, 'null') using errcode = 'check_violation',
      hint = 'Write 0 to 86400 (seconds), or leave it out for 0.';
  end if;
  if new.max_failures < 1 then
    raise exception 'max_failures is %', new.max_failures using errcode = 'check_violation',
      hint = 'Write at least 1, or leave it out: it never pauses itself then.';
  end if;
  if tg_op = 'INSERT'
     or (new.task_type, new.task_description, new.task_priority, new.input_data, new.queue, new.timeout_seconds, new.max_retries,
         new.concurrency_key)
        is distinct from
        (old.task_type, old.task_description, old.task_priority, old.input_data, old.queue, old.timeout_seconds, old.max_retries,
         old.concurrency_key) then
    begin
      perform public.turbo_schedule_task(new::public.agent_schedules, clock_timestamp()::timestamptz, now()::timestamptz);
      raise exception using errcode = 'TURBO', message = 'taken back';
    exception when sqlstate 'TURBO' then null;
    end;
  end if;

  if tg_op = 'UPDATE' then
    if (new.cron, new.timezone, new.enabled) is distinct from (old.cron, old.timezone, old.enabled)
       or new.next_at is null and old.error is not null then
      new.since := now(); new.next_at := null;
    end if;
    if new.enabled or old.enabled then    -- one that has paused itself goes on saying why
      if new.error is not distinct from old.error then new.error := null; end if;
      if new.failures is not distinct from old.failures then new.failures := 0; end if;
    end if;
  end if;
  if current_setting('turbo.notify', true) is distinct from 'off' and pg_notification_queue_usage() <= 0.5 then
    perform pg_notify('turbo_ctl', 'schedule');
  end if;
  return new;
end $$;
create or replace trigger turbo_judge_schedule before insert or update on public.agent_schedules
  for each row execute function public.turbo_judge_schedule();

-- What became of the tasks of its open slots, counted once: a failure is one more in a row, a success ends the row, a cancellation or a
-- deleted task is neither. unfinished: one of its tasks is not over, the last run by hand and a retried last one included.
create or replace function public.turbo_count_slots(inout s public.agent_schedules, out unfinished boolean)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
  set enable_seqscan = off set plan_cache_mode = force_generic_plan as $$
declare
  one   record;
  still timestamptz[] := '{}';
begin
  unfinished := false;
  for one in
    select o.slot, t.status
      from (select unnest(s.open_slots) as slot) o
     cross join lateral (select t.status::text as status from public.agent_tasks t
                          where t.idempotency_key = public.turbo_schedule_key(s.name::text, o.slot::timestamptz)) t
     order by o.slot
  loop
    case one.status
      when 'failed'    then s.failures := s.failures + 1;
      when 'completed' then s.failures := 0;
      else if one.status in ('pending', 'scheduled', 'running', 'blocked', 'waiting') then
             still := still || one.slot; unfinished := true;
           end if;
    end case;
  end loop;
  s.open_slots := still;
  if not unfinished then
    unfinished := exists (select from public.agent_tasks t
                           where t.idempotency_key in (public.turbo_schedule_key(s.name::text, s.fired_at::timestamptz),
                                                       public.turbo_schedule_key(s.name::text, s.run_at::timestamptz))
                             and t.status::text in ('pending', 'scheduled', 'running', 'blocked', 'waiting'));
  end if;
end $$;

-- Pauses a schedule whose tasks failed too often in a row.
create or replace function public.turbo_pause_schedule(inout s public.agent_schedules) returns public.agent_schedules
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  if s.failures >= s.max_failures and s.enabled then
    s.enabled := false;
    s.next_at := null;
    s.error := left(format('paused itself after %s%s', case s.failures when 1 then 'a failure' else format('%s failures in a row', s.failures) end,
                           ': ' || s.error), 2000);
  end if;
end $$;

-- Writes what turbo keeps of a schedule.
create or replace function public.turbo_keep_schedule(s public.agent_schedules) returns void
language sql set search_path = pg_catalog, pg_temp as $$
  update public.agent_schedules k
     set enabled = s.enabled, next_at = s.next_at, last_at = s.last_at, fired_at = s.fired_at, run_at = s.run_at, skipped_at = s.skipped_at,
         skipped = s.skipped, failures = s.failures, error = s.error, open_slots = s.open_slots, rev = k.rev + 1
   where k.name = s.name
$$;

-- Fires what is due. `due`: an array of {name, rev, next_at, slots, missed, upto, later, error}, computed from one look at the schedule
-- (turbo/sql/schedules/due.sql): the slots that are to get a task, in order; how many others were passed over; the last of all of them;
-- the slot after these, null when there is none; or why none can be computed. Only for whoever finds the schedule as that look saw it.
-- Each slot's task and the move to the next slot are one transaction: a crash or a failover leaves both or neither. It waits for
-- nobody: what somebody has locked is `left`, and so is what may pass by itself; both that and a refused task are written into error.
-- A slot that was dealt with never fires again, although retention may have deleted its task, and the key with it.
-- Returns {"upto", "next": the earliest slot of all, in seconds since 1970, 0 for now; "left": [names], "fired": [{name, slot, task_id, late: seconds}], "refused": [{name, error}],
-- "paused": [names], "skipped": n, "moved": n}. Others hear of it: `schedule UPTO NEXT` on turbo_ctl, in seconds since 1970.
-- at: the present, for tests; null: the clock.
create or replace function public.turbo_fire(due jsonb, worker text, at timestamptz default null) returns jsonb
language plpgsql security definer set search_path = pg_catalog, pg_temp
  set enable_seqscan = off set plan_cache_mode = force_generic_plan as $$
declare
  present    timestamptz := coalesce(at, statement_timestamp());
  one        jsonb;
  s          public.agent_schedules;
  counted    record;
  before     jsonb;     -- what is said of the schedules before this one
  slot       timestamptz;
  unfinished boolean;
  task       text;
  said       text;
  hint       text;
  left_alone text[] := '{}';
  fired      jsonb := '[]';
  refused    jsonb := '[]';
  paused     text[] := '{}';
  skipped    bigint := 0;
  moved      bigint := 0;
  upto       timestamptz;
  next       timestamptz;
  found_next boolean;
begin
  for one in select d.value from jsonb_array_elements(due) with ordinality d(value, n) order by d.n loop
    select k.* into s
      from public.agent_schedules k
     where k.name = one ->> 'name' and k.rev = (one ->> 'rev')::bigint and k.enabled
       and k.next_at is not distinct from (one ->> 'next_at')::timestamptz
       for no key update skip locked;
    if not found then
      if exists (select from public.agent_schedules k where k.name = one ->> 'name' and k.rev = (one ->> 'rev')::bigint and k.enabled) then
        left_alone := left_alone || (one ->> 'name');
      end if;
      continue;
    end if;
    begin
      before := jsonb_build_array(fired, refused, skipped);
      select c.* into counted from public.turbo_count_slots(s::public.agent_schedules) c;
      s := public.turbo_pause_schedule(counted.s::public.agent_schedules);
      unfinished := counted.unfinished;
      s.next_at := case when s.enabled then (one ->> 'later')::timestamptz end;
      if s.enabled and one ->> 'error' is not null then
        s.error := left(one ->> 'error', 2000);
        s.next_at := null;
      end if;
      for slot in select e.value::timestamptz from jsonb_array_elements_text(one -> 'slots') with ordinality e(value, n) order by e.n loop
        exit when not s.enabled;
        continue when slot <= s.last_at;
        s.last_at := slot;
        if s.overlap = 'skip' and unfinished then
          s.skipped := s.skipped + 1; s.skipped_at := slot; skipped := skipped + 1;
          continue;
        end if;
        begin
          task := public.turbo_schedule_task(s::public.agent_schedules, slot::timestamptz,
            public.turbo_schedule_due(s::public.agent_schedules, slot::timestamptz, coalesce(at, now())::timestamptz)::timestamptz);
          s.fired_at := slot;
          s.open_slots := (s.open_slots || slot)[greatest(1, cardinality(s.open_slots) - 198):];     -- the latest 200
          s.error := null;
          unfinished := true;
          if task is not null then
            fired := fired || jsonb_build_object('name', s.name, 'slot', slot, 'task_id', task,
                                                 'late', extract(epoch from coalesce(at, clock_timestamp()) - slot));
            insert into public.agent_actions (task_id, action_type, success, actor, to_status, detail)
            select t.task_id, 'fired', true, worker, t.status::text, jsonb_build_object('schedule', s.name, 'slot', slot)
              from public.agent_tasks t where t.task_id = task::public.turbo_task_id;
          end if;
        -- A rule that the insert meets, whatever it raises. What may pass by itself, as a full disk or a lock, is no failure.
        exception when others or assert_failure then
          get stacked diagnostics said = message_text, hint = pg_exception_hint;
          if sqlstate ~ '^(08|25|40|53|55P03|57|58|XX|2200H)' then raise; end if;
          s.failures := s.failures + 1;
          s.error := left('its task was refused: ' || said || coalesce(' (' || nullif(hint, '') || ')', ''), 2000);
          refused := refused || jsonb_build_object('name', s.name, 'error', s.error);
          s := public.turbo_pause_schedule(s::public.agent_schedules);
        end;
      end loop;
      if s.enabled and (one ->> 'missed')::bigint > 0 then
        s.skipped := s.skipped + (one ->> 'missed')::bigint; skipped := skipped + (one ->> 'missed')::bigint;
        s.skipped_at := greatest(s.skipped_at, least((one ->> 'upto')::timestamptz, present));
      end if;
      s.last_at := greatest(s.last_at, (one ->> 'upto')::timestamptz);
      perform public.turbo_keep_schedule(s::public.agent_schedules);
      moved := moved + 1;
      upto := greatest(upto, (one ->> 'upto')::timestamptz);
      if not s.enabled then paused := paused || s.name; end if;
    -- It may pass by itself: its slots stay due, and the others go on. Its row says so, but of a lock or a conflict. A schedule that
    -- has an error and no next slot is not looked at again, so it gets its slot.
    exception when others then
      fired := before -> 0; refused := before -> 1; skipped := (before -> 2)::bigint;
      left_alone := left_alone || s.name;
      if sqlstate !~ '^(40|55P03)' then
        said := left('its task cannot be inserted, and is tried again: ' || sqlerrm, 2000);
        update public.agent_schedules k
           set error = said, next_at = coalesce(k.next_at, (one -> 'slots' ->> 0)::timestamptz), rev = k.rev + 1
         where k.name = s.name and k.error is distinct from said;
        if found then refused := refused || jsonb_build_object('name', s.name, 'error', said); end if;
      end if;
    end;
  end loop;

  select k.next_at, true into next, found_next
    from public.agent_schedules k
   where k.enabled and (k.next_at is not null or k.error is null) and k.name <> all (left_alone)
   order by k.next_at nulls first limit 1;
  if moved > 0 and current_setting('turbo.notify', true) is distinct from 'off' and pg_notification_queue_usage() <= 0.5 then
    perform pg_notify('turbo_ctl', format('schedule %s %s', coalesce(extract(epoch from upto), 0),
                                          case when found_next then coalesce(extract(epoch from next), 0)::text else '-' end));
  end if;
  return jsonb_build_object('upto', coalesce(extract(epoch from upto), 0), 'next', case when found_next then coalesce(extract(epoch from next), 0) end,
                            'left', to_jsonb(left_alone), 'fired', fired, 'refused', refused, 'paused', to_jsonb(paused),
                            'skipped', skipped, 'moved', moved);
end $$;

-- Counts what became of the tasks of all schedules' open slots, and pauses those whose tasks failed too often: before retention deletes
-- them, and when a task has failed. It waits for nobody. Returns the names of those that it paused.
create or replace function public.turbo_judge_slots() returns text[]
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  was     public.agent_schedules;
  counted record;
  s       public.agent_schedules;
  paused  text[] := '{}';
begin
  for was in select k.* from public.agent_schedules k where k.open_slots <> '{}' order by k.name for no key update skip locked loop
    select c.* into counted from public.turbo_count_slots(was::public.agent_schedules) c;
    s := public.turbo_pause_schedule(counted.s::public.agent_schedules);
    if s.open_slots is distinct from was.open_slots then
      perform public.turbo_keep_schedule(s::public.agent_schedules);
      if was.enabled and not s.enabled then paused := paused || s.name; end if;
    end if;
  end loop;
  return paused;
end $$;

-- Fires a schedule once, now, whether it is paused or not, and leaves its slots as they are. Returns the id of the task. For whoever may
-- write schedules: the task is submitted in the name of the schedule's author.
create or replace function public.turbo_run_schedule(schedule text) returns text
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  s    public.agent_schedules;
  task text;
begin
  select k.* into s from public.agent_schedules k where k.name = schedule for no key update;
  if not found then
    raise exception 'there is no schedule %', case when schedule is null then 'null' else '''' || public.turbo_shown(schedule::text, 200::integer) || '''' end
      using errcode = 'no_data_found', hint = 'SELECT name FROM agent_schedules shows which there are.';
  end if;
  s.run_at := clock_timestamp();
  if s.run_at = date_trunc('second', s.run_at) then s.run_at := s.run_at + interval '1 microsecond'; end if;
  task := public.turbo_schedule_task(s::public.agent_schedules, s.run_at::timestamptz, now()::timestamptz);
  insert into public.agent_actions (task_id, action_type, success, actor, to_status, detail)
  select t.task_id, 'fired', true, session_user, t.status::text, jsonb_build_object('schedule', s.name, 'by_hand', true)
    from public.agent_tasks t where t.task_id = task::public.turbo_task_id;
  perform public.turbo_keep_schedule(s::public.agent_schedules);
  return task;
end $$;

revoke all on function
  public.turbo_schedule_key(text, timestamptz), public.turbo_schedule_task(public.agent_schedules, timestamptz, timestamptz),
  public.turbo_schedule_due(public.agent_schedules, timestamptz, timestamptz), public.turbo_is_cron_field(text, integer),
  public.turbo_judge_schedule(), public.turbo_count_slots(public.agent_schedules), public.turbo_pause_schedule(public.agent_schedules),
  public.turbo_keep_schedule(public.agent_schedules), public.turbo_fire(jsonb, text, timestamptz), public.turbo_judge_slots(),
  public.turbo_run_schedule(text)
  from public;

-- Whoever may write a claim is a worker: turbo_worker, where turbo migrate --roles made it, and roles with grants by hand.
do $$
declare
  worker record;
begin
  for worker in
    select distinct p.grantee from information_schema.column_privileges p
     where p.table_schema = 'public' and p.table_name = 'agent_tasks' and p.column_name = 'fencing_token'
       and p.privilege_type = 'UPDATE'
  loop
    execute format('grant select (name, cron, timezone, enabled, catch_up, max_failures, since, next_at, last_at, error, rev)
                          on public.agent_schedules to %1$s;
                    grant execute on function public.turbo_fire(jsonb, text, timestamptz), public.turbo_judge_slots() to %1$s',
                   case worker.grantee when 'PUBLIC' then 'public' else quote_ident(worker.grantee) end);
  end loop;
end $$;
