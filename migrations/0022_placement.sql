-- turbo: compatible-from 3
-- Where a task may run: `requires`, labels that its worker must have; and what is known of conversations that can go on on any host.

-- A column of this name that is there already is the deployment's own, and means something else: nothing is changed then.
do $$
begin
  if (select coalesce(col_description(a.attrelid, a.attnum), '') not like '%(turbo)'
        from pg_attribute a
       where a.attrelid = 'public.agent_tasks'::regclass and a.attname = 'requires' and not a.attisdropped) then
    raise exception 'agent_tasks has columns that turbo needs for itself: requires' using errcode = 'duplicate_column',
      hint = 'Rename them (ALTER TABLE public.agent_tasks RENAME COLUMN ...) and run turbo migrate again.';
  end if;
end $$;
alter table public.agent_tasks add column if not exists requires jsonb;
-- The same default, written as a constant: as a conversion of one it was a dearer text, which each INSERT reads and plans. What a new
-- column costs an insert is saved by it.
alter table public.agent_tasks alter column turbo_rev set default '0'::bigint;
comment on column public.agent_tasks.requires is
  'labels that a worker must have to run this task, with their values as text: {"os": "macos"}; null: none (turbo)';

-- The tasks with requirements that are not over, with their queue: so that turbo finds those that no worker meets by looking at each
-- requirement once, not at each task. Written by triggers; the leader deletes what is over (turbo/sql/tasks/met.sql).
create table if not exists public.agent_requirements (
  task_id  public.turbo_task_id primary key,
  queue    text  not null,
  requires jsonb not null
) with (autovacuum_vacuum_threshold = 200, autovacuum_vacuum_scale_factor = 0.02);
create index if not exists agent_requirements_distinct on public.agent_requirements (queue, requires);

-- The conversation and the directory of this task can be had on any host: prefer_host is a preference then, and no pin. session: that
-- conversation, as in agent_session_id of the task; of another one this says nothing. Written by workers. queue and due are the
-- triggers': where the task waits for its host, and since when.
create table if not exists public.agent_portable (
  task_id public.turbo_task_id primary key,
  session text,
  at      timestamptz not null default clock_timestamp(),
  queue   text,
  due     timestamptz
) with (fillfactor = 80, autovacuum_vacuum_threshold = 200, autovacuum_vacuum_scale_factor = 0.02);
create index if not exists agent_portable_due on public.agent_portable (queue, due) where due is not null;
-- turbo: next
-- A live worker of that queue which is older than this schema, and so knows nothing of what came with it; null: none.
create or replace function public.turbo_worker_before(queue text, schema integer) returns text
language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
begin
  return (select w.worker_id from public.agent_workers w
           where w.state <> 'dead' and coalesce(w.schema, 0) < turbo_worker_before.schema
             and turbo_worker_before.queue = any (w.queues)
           order by w.worker_id limit 1);
end $$;

-- What a task requires, judged, with its values as text; null for nothing. A follow-up without requirements has those of the task
-- that it continues. queue: null, the task is over, and nobody will claim it.
create or replace function public.turbo_judge_requires(requires jsonb, queue text, continues text) returns jsonb
language plpgsql security definer set search_path = pg_catalog, pg_temp
  set enable_seqscan = off set plan_cache_mode = force_generic_plan as $$
declare
  form  constant text := 'Write the labels and their values: ''{"os": "macos", "xcode": "16"}''.';
  wrong text;
  older text;
begin
  if requires is null and continues is not null then
    requires := (select t.requires from public.agent_tasks t where t.task_id = turbo_judge_requires.continues::public.turbo_task_id);
  end if;
  if requires is null or requires in ('null', '{}') then return null; end if;
  if jsonb_typeof(requires) <> 'object' then
    raise exception 'requires is %, not an object', case jsonb_typeof(requires) when 'array' then 'a list' else 'a ' || jsonb_typeof(requires) end
      using errcode = 'check_violation', hint = form;
  end if;
  if (select count(*) from jsonb_object_keys(requires)) > 20 or octet_length(requires::text) > 2000 then
    raise exception 'requires has % labels in % bytes, more than 20 labels or 2000 bytes',
      (select count(*) from jsonb_object_keys(requires)), octet_length(requires::text) using errcode = 'check_violation',
      hint = 'Name fewer labels, or give the workers one label that stands for them all.';
  end if;
  select case when r.key !~ '[^[:space:]]' then 'requires has a label without a name'
              else format('label %s in requires is %s, not a text', quote_literal(public.turbo_shown(r.key::text, 60::integer)),
                          case jsonb_typeof(r.value) when 'object' then 'an object' when 'array' then 'a list' else 'null' end) end
    into wrong
    from jsonb_each(requires) r
   where r.key !~ '[^[:space:]]' or jsonb_typeof(r.value) in ('object', 'array', 'null')
   limit 1;
  if wrong is not null then
    raise exception '%', wrong using errcode = 'check_violation', hint = form;
  end if;
  older := public.turbo_worker_before(queue::text, 22::integer);
  if older is not null then
    raise exception 'worker % of queue % is older, and would ignore requires', public.turbo_shown(older::text, 200::integer),
      public.turbo_shown(queue::text, 60::integer) using errcode = 'object_not_in_prerequisite_state',
      hint = 'Upgrade that worker, or stop it; or leave requires out.';
  end if;
  return (select jsonb_object_agg(r.key, r.value) from jsonb_each_text(requires) r);
end $$;

-- Writes down that a task is not over and has requirements.
create or replace function public.turbo_note_requires(task text, queue text, requires jsonb) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp set enable_seqscan = off as $$
begin
  insert into public.agent_requirements as r (task_id, queue, requires) values (task::public.turbo_task_id, queue, requires)
  on conflict (task_id) do update set queue = excluded.queue, requires = excluded.requires;
end $$;

-- A task has become pending that has requirements, or a host that it waits for. Where its conversation can be had anywhere, other hosts
-- may take it after a while, and their polls look for that moment (turbo_stay_in). A follow-up that never ran goes on with the
-- conversation of the last run before it: what is known of that run's is true of its own.
create or replace function public.turbo_note_place(
  task text, queue text, requires jsonb, host text, due timestamptz, follows boolean) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp set enable_seqscan = off as $$
begin
  if requires is not null then
    if (select r.queue = turbo_note_place.queue and r.requires = turbo_note_place.requires
          from public.agent_requirements r where r.task_id = task::public.turbo_task_id) is not true then
      perform public.turbo_note_requires(task::text, queue::text, requires::jsonb);
    end if;
  end if;
  if host is null or not exists (select from public.agent_portable) then return; end if;
  if follows and (select true from public.agent_portable p where p.task_id = task::public.turbo_task_id) is null then
    insert into public.agent_portable (task_id, session, at)
    select task::public.turbo_task_id, l.session, l.at
      from (select p.agent_session_id, e.session, e.at
              from public.agent_conversations c
             cross join lateral (select c.after as task_id          -- as turbo/sql/settle/settle.sql looks for its session
                                 union all
                                 (select o.task_id from public.agent_conversations o
                                   where o.conversation = c.conversation and o.place > c.place order by o.place limit 100)) o
              join public.agent_tasks p on p.task_id = o.task_id and p.fencing_token is not null
              left join public.agent_portable e on e.task_id = o.task_id
             where c.task_id = task::public.turbo_task_id
             order by abs(greatest(p.fencing_token, -9223372036854775807)) desc
             limit 1) l
     where l.at is not null and l.session is not distinct from l.agent_session_id
    on conflict (task_id) do nothing;
  end if;
  update public.agent_portable p set queue = turbo_note_place.queue, due = turbo_note_place.due
   where p.task_id = (select o.task_id from public.agent_portable o where o.task_id = task::public.turbo_task_id for update skip locked);
end $$;

-- Whether the conversation of a task can be had on any host. Called by claims, for tasks that their host did not take in time; and by
-- whoever may see a task.
create or replace function public.turbo_is_portable(task public.turbo_task_id, session text) returns boolean
language plpgsql stable security definer set search_path = pg_catalog, pg_temp set enable_seqscan = off as $$
begin
  return exists (select from public.agent_portable p where p.task_id = task and p.session is not distinct from turbo_is_portable.session);
end $$;

-- Whether a worker may run a task now. place: the worker's, {"host", "labels", "stay"}. It has what the task requires; and it is on the
-- host of the task's conversation, or the conversation can be had there, too, and the task has waited for its host for `stay` seconds.
-- Without settings of its own: ten thousand such tasks may stand at the head of a queue, and a claim may ask of each of them.
create or replace function public.turbo_may_run(
  task public.turbo_task_id, requires jsonb, prefer_host text, session text, run_after timestamptz, place text) returns boolean
language plpgsql stable as $$
declare
  here pg_catalog.jsonb := place;
begin
  if requires is not null and not requires operator(pg_catalog.<@) (here operator(pg_catalog.->) 'labels') then return false; end if;
  return prefer_host is null or prefer_host operator(pg_catalog.=) (here operator(pg_catalog.->>) 'host')
         or run_after operator(pg_catalog.<=) (pg_catalog.statement_timestamp() operator(pg_catalog.-)
              pg_catalog.make_interval(secs => (here operator(pg_catalog.->>) 'stay')::pg_catalog.float8))
            and public.turbo_is_portable(task::public.turbo_task_id, session::text);
end $$;

-- Seconds until a worker of `host` may take the next pending task that waits for another host; null: none does. The poll twin of a
-- wake-up that nobody sends. stay: worker.stay_seconds of whoever asks. A hundred are looked at; if all of those were claimed
-- in time, it is the moment of the last one, and the look after that sees the others.
create or replace function public.turbo_stay_in(queues text[], host text, stay double precision) returns double precision
language plpgsql stable set search_path = pg_catalog, pg_temp set enable_seqscan = off as $$
begin
  return (
    select extract(epoch from min(n.due) - statement_timestamp())::float8 + stay
      from unnest(queues) q(queue)
     cross join lateral (
       select case when bool_or(f.waits) then min(f.due) filter (where f.waits) when count(*) >= 100 then max(f.due) end as due
         from (select p.due, (select t.status::text = 'pending' and t.prefer_host is distinct from turbo_stay_in.host
                                from public.agent_tasks t where t.task_id = p.task_id) as waits
                 from public.agent_portable p
                where p.queue = q.queue and p.due > statement_timestamp() - make_interval(secs => stay)
                order by p.due limit 100) f) n);
end $$;

-- The requirements that no live worker of their queue meets: of pending tasks, with how many there are (a thousand at most), the id of
-- one, the worker that comes closest, and what that one lacks: label → what it has in its place, null for nothing. Queues that nobody
-- serves are left out: that is the trouble there. At most `most` requirements are looked at, however many tasks have them.
create or replace function public.turbo_unplaceable(most integer)
returns table (queue text, requires jsonb, tasks bigint, task_id text, worker_id text, lacks jsonb)
language plpgsql stable set search_path = pg_catalog, pg_temp set enable_seqscan = off set plan_cache_mode = force_generic_plan as $$
#variable_conflict use_column
declare
  one   record;
  found boolean;
begin
  select r.queue, r.requires into one from public.agent_requirements r order by r.queue, r.requires limit 1;
  for looked in 1 .. most loop
    exit when one.queue is null;
    select w.worker_id, l.lacks into worker_id, lacks
      from public.agent_workers w
     cross join lateral (select count(*) as many, jsonb_object_agg(k.key, w.labels -> k.key) as lacks
                           from jsonb_each(one.requires) k where w.labels -> k.key is distinct from k.value) l
     where one.queue = any (w.queues) and w.state in ('up', 'paused')
       and w.heartbeat_at between clock_timestamp() - make_interval(secs => w.lease_seconds)
           and clock_timestamp() + make_interval(secs => w.lease_seconds)
     order by l.many, w.worker_id limit 1;
    if lacks is not null then
      select count(*), min(p.task_id) into tasks, task_id
        from (select r.task_id::text as task_id
                from (select r.task_id from public.agent_requirements r
                       where r.queue = one.queue and r.requires = one.requires limit 10000) r
               where (select t.status::text = 'pending' from public.agent_tasks t where t.task_id = r.task_id)
               limit 1000) p;
      if tasks > 0 then
        queue := one.queue; requires := one.requires;
        return next;
      end if;
    end if;
    select r.queue, r.requires into one from public.agent_requirements r
     where (r.queue, r.requires) > (one.queue, one.requires) order by r.queue, r.requires limit 1;
  end loop;
end $$;

-- The row of agent_portable knows where its task waits, if it does already.
create or replace function public.turbo_place_portable() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp set enable_seqscan = off as $$
begin
  new.queue := null; new.due := null;
  select t.queue, t.run_after into new.queue, new.due
    from public.agent_tasks t
   where t.task_id = new.task_id and t.status::text = 'pending' and t.prefer_host is not null;
  if new.queue is not null then perform public.turbo_wake(new.queue::text); end if;     -- other hosts set their timers
  return new;
end $$;
create or replace trigger turbo_place_portable before insert or update of session, at
  on public.agent_portable for each row execute function public.turbo_place_portable();

-- What belongs to a task goes with it, and is renamed with it.
create or replace function public.turbo_forget_place() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp set enable_seqscan = off as $$
begin
  if tg_op = 'TRUNCATE' then
    delete from public.agent_requirements;
    delete from public.agent_portable;
    return null;
  end if;
  if exists (select from public.agent_requirements) then
    delete from public.agent_requirements r where r.task_id = any (array(select g.task_id from gone g));
  end if;
  if exists (select from public.agent_portable) then
    delete from public.agent_portable p where p.task_id = any (array(select g.task_id from gone g));
  end if;
  return null;
end $$;
create or replace trigger turbo_forget_place_delete after delete on public.agent_tasks
  referencing old table as gone for each statement execute function public.turbo_forget_place();
create or replace trigger turbo_forget_place_truncate after truncate on public.agent_tasks
  for each statement execute function public.turbo_forget_place();

create or replace function public.turbo_move_place() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp set enable_seqscan = off as $$
begin
  if new.task_id is distinct from old.task_id then
    delete from public.agent_requirements r where r.task_id = old.task_id;
    if new.requires is not null and new.status::text not in ('completed', 'failed', 'cancelled') then
      perform public.turbo_note_requires(new.task_id::text, new.queue::text, new.requires::jsonb);
    end if;
    update public.agent_portable p set task_id = new.task_id where p.task_id = old.task_id;
  end if;
  return null;
end $$;
create or replace trigger turbo_move_place after update of task_id on public.agent_tasks
  for each row execute function public.turbo_move_place();

-- An older worker ignores requires. While tasks with requirements are there in one of its queues, it cannot begin to serve them.
create or replace function public.turbo_refuse_older() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp set enable_seqscan = off as $$
declare
  queue text;
begin
  if new.state = 'dead' or tg_op = 'UPDATE' and old.state <> 'dead' then return new; end if;
  queue := (select r.queue from public.agent_requirements r where r.queue = any (new.queues) limit 1);
  if queue is not null then
    raise exception 'worker % is older than tasks in queue % that require labels: it would run them without',
      public.turbo_shown(new.worker_id::text, 200::integer), public.turbo_shown(queue::text, 60::integer)
      using errcode = 'object_not_in_prerequisite_state', hint = 'Upgrade turbo on that host.';
  end if;
  return new;
end $$;
create or replace trigger turbo_refuse_older before insert or update of state on public.agent_workers for each row
  when (new.schema is null or new.schema < 22) execute function public.turbo_refuse_older();

revoke all on function
  public.turbo_worker_before(text, integer), public.turbo_judge_requires(jsonb, text, text), public.turbo_note_requires(text, text, jsonb),
  public.turbo_note_place(text, text, jsonb, text, timestamptz, boolean),
  public.turbo_stay_in(text[], text, double precision), public.turbo_place_portable(),
  public.turbo_forget_place(), public.turbo_move_place(), public.turbo_refuse_older()
  from public;
-- turbo: next
-- The judges are long, and each of these changes a line or two of them: a part of the function that is there takes the place of another.
-- Each part must be found exactly once.
do $$
declare
  change record;
  text_now text;
begin
  for change in
    select * from (values
      -- Inserts: an ordinary row still passes by the first expression.
      (1, 'turbo_judge_insert', 'new.continues, new.needed, new.conversation) = 0', 'new.continues, new.needed, new.conversation, new.requires) = 0'),
      -- A row that was not created after it becomes runnable, and that not after now: neither moment is infinite.
      (12, 'turbo_judge_insert', $a$     and new.created_at <= now() and new.created_at > '-infinity'$a$,
       $b$     and new.created_at <= new.run_after and new.created_at > '-infinity'$b$),
      (13, 'turbo_judge_insert', 'new.run_after <= now() and isfinite(new.run_after)
     and (new.queue', 'new.run_after <= now()
     and (new.queue'),
      (2, 'turbo_judge_insert', $a$'completed', 'failed', 'cancelled'))
  then return new; end if;
  if new.submitted_by is null and not restored$a$, $b$'completed', 'failed', 'cancelled'))
  then
    if new.requires is not null and new.status::text not in ('completed', 'failed', 'cancelled') then
      perform public.turbo_note_requires(new.task_id::text, new.queue::text, new.requires::jsonb);
    end if;
    return new;
  end if;
  if new.submitted_by is null and not restored$b$),
      (3, 'turbo_judge_insert', $a$  if new.status::text = 'waiting' then
    new.question  := public.turbo_hold($a$, $b$  if num_nonnulls(new.requires, new.continues) > 0 then
    new.requires := public.turbo_judge_requires(
      new.requires::jsonb, (case when new.status::text not in ('completed', 'failed', 'cancelled') then new.queue end)::text, new.continues::text);
    if new.requires is not null and new.status::text not in ('completed', 'failed', 'cancelled') then
      perform public.turbo_note_requires(new.task_id::text, new.queue::text, new.requires::jsonb);
    end if;
  end if;

  if new.status::text = 'waiting' then
    new.question  := public.turbo_hold($b$),
      -- Updates by hand.
      (4, 'turbo_judge_update', $a$'continues', 'needed', 'conversation', 'submitted_by'];$a$, $b$'continues', 'needed', 'conversation', 'submitted_by', 'requires'];$b$),
      (5, 'turbo_judge_update', $a$then 'submitted_by' end], null);$a$, $b$then 'submitted_by' end,
    case when new.requires            is distinct from old.requires            then 'requires' end], null);$b$),
      (6, 'turbo_judge_update', $a$  written := array_remove(array[$a$, $b$  if new.requires is not null
     and (new.requires is distinct from old.requires or new.queue is distinct from old.queue or was = any (final) and asked <> all (final)) then
    new.requires := public.turbo_judge_requires(new.requires::jsonb, (case when asked <> all (final) then new.queue end)::text, null::text);
    if new.requires is not null and asked <> all (final) then
      perform public.turbo_note_requires(old.task_id::text, new.queue::text, new.requires::jsonb);
    end if;
  end if;
  written := array_remove(array[$b$),
      (7, 'turbo_judge_update', $a$  if new.prefer_host is distinct from old.prefer_host and asked = 'pending' then$a$,
       $b$  if (new.prefer_host is distinct from old.prefer_host or new.requires is distinct from old.requires) and asked = 'pending' then$b$),
      -- A task has become pending, or a pending one has changed.
      (8, 'turbo_wake_change', $a$
begin
$a$, $b$
begin
  if new.status = 'pending' and num_nonnulls(new.requires, new.prefer_host) > 0 then
    perform public.turbo_note_place(new.task_id::text, new.queue::text, new.requires::jsonb, new.prefer_host::text, new.run_after::timestamptz,
                                    (new.continues is not null and new.fencing_token is null)::boolean);
  end if;
$b$),
      -- An idle worker that is picked may not meet what the row requires: all of the queue are woken then.
      (9, 'turbo_wake_insert', 'told  bigint;', 'picky boolean;  -- some of these rows require labels
  told  bigint;'),
      (10, 'turbo_wake_insert', 'select count(*) into told
      from (select from new_rows n', 'select count(*), bool_or(s.requires is not null) into told, picky
      from (select n.requires from new_rows n'),
      (11, 'turbo_wake_insert', 'elsif fleet.idle <= 4 or', 'elsif fleet.idle <= 4 or picky or')
    ) c(n, name, was, becomes) order by 1
  loop
    text_now := pg_get_functiondef(('public.' || change.name || '()')::regprocedure);
    if position(change.becomes in text_now) > 0 then continue; end if;                    -- done by an earlier try
    if (length(text_now) - length(replace(text_now, change.was, ''))) <> length(change.was) then
      raise exception 'change % does not fit %()', change.n, change.name using errcode = 'internal_error',
        hint = 'This function is not the one of the migrations before; somebody has changed it.';
    end if;
    execute replace(text_now, change.was, change.becomes);
  end loop;
end $$;
-- turbo: next
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
    execute format('grant select (requires) on public.agent_tasks to %1$s;
                    grant select (task_id, queue, requires, ctid), update (requires), delete on public.agent_requirements to %1$s;
                    grant select, insert (task_id, session, at), update (session, at), delete on public.agent_portable to %1$s;
                    grant execute on function
                      public.turbo_may_run(public.turbo_task_id, jsonb, text, text, timestamptz, text),
                      public.turbo_is_portable(public.turbo_task_id, text), public.turbo_stay_in(text[], text, double precision),
                      public.turbo_unplaceable(integer) to %1$s',
                   case worker.grantee when 'PUBLIC' then 'public' else quote_ident(worker.grantee) end);
  end loop;
end $$;
