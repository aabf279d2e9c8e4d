-- turbo: no-transaction
-- turbo: compatible-from 3
-- Limits: how many tasks of a concurrency_key run at a time, instead of one. The guard stays a unique index, on the key and a place:
-- a key with a limit of three has the places 0, 1 and 2. An older worker's claim takes place 0 alone, and only while none of the key runs.

-- A column or a table of these names that is there already is the deployment's own, and means something else: nothing is changed then.
do $$
begin
  if (select coalesce(col_description(a.attrelid, a.attnum), '') not like '%(turbo)'
        from pg_attribute a
       where a.attrelid = 'public.agent_tasks'::regclass and a.attname = 'key_slot' and not a.attisdropped) then
    raise exception 'agent_tasks has columns that turbo needs for itself: key_slot' using errcode = 'duplicate_column',
      hint = 'Rename them (ALTER TABLE public.agent_tasks RENAME COLUMN ...) and run turbo migrate again.';
  end if;
  if to_regclass('public.agent_limits') is not null
     and coalesce(obj_description(to_regclass('public.agent_limits'), 'pg_class'), '') not like '%(turbo)' then
    raise exception 'there is a table agent_limits already, and turbo needs one of this name for itself'
      using errcode = 'duplicate_table',
      hint = 'Rename it (ALTER TABLE public.agent_limits RENAME TO ...) and run turbo migrate again.';
  end if;
end $$;
alter table public.agent_tasks add column if not exists key_slot smallint;
comment on column public.agent_tasks.key_slot is
  'while it runs: its place among the running tasks of its concurrency_key; null: place 0 (turbo)';

create table if not exists public.agent_limits (
  concurrency_key text primary key,
  running         integer not null check (running between 1 and 1000)
);
comment on table public.agent_limits is
  'how many tasks of a concurrency_key run at a time; without a row one: INSERT INTO agent_limits VALUES (''gpu'', 3) (turbo)';
-- turbo: next
create or replace function public.turbo_judge_limit() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  if new.concurrency_key is null or length(new.concurrency_key) > 500 then
    raise exception '%', case when new.concurrency_key is null then 'the concurrency_key of a limit is null'
                              else format('the concurrency_key of a limit has %s characters, more than 500', length(new.concurrency_key)) end
      using errcode = 'check_violation', hint = 'Write the key as tasks have it in concurrency_key.';
  end if;
  if new.running is null or new.running not between 1 and 1000 then
    raise exception 'running of the limit for key % is %', quote_literal(public.turbo_shown(left(new.concurrency_key, 60)::text, 60::integer)),
      coalesce(new.running::text, 'null') using errcode = 'check_violation',
      hint = 'Write 1 to 1000: so many tasks of this key run at a time. To start none, pause their queue: turbo pause --queue NAME.';
  end if;
  return new;
end $$;
create or replace trigger turbo_judge_limit before insert or update on public.agent_limits
  for each row execute function public.turbo_judge_limit();

-- Wakes the idle workers whose queues have tasks of this key: there are places for them.
create or replace function public.turbo_wake_waiters(key text) returns void
language plpgsql set search_path = pg_catalog, pg_temp set enable_seqscan = off as $$
begin
  if current_setting('turbo.notify', true) = 'off' or pg_notification_queue_usage() > 0.5 then return; end if;
  perform pg_notify('turbo_q_' || i.queue, '')
     from (select distinct q.queue
             from public.agent_workers w cross join lateral unnest(w.queues) q(queue)
            where w.idle and w.heartbeat_at > clock_timestamp() - make_interval(secs => w.lease_seconds)) i
    where exists (select from public.agent_tasks t
                   where t.status = 'pending' and t.concurrency_key = key and t.queue = i.queue);
end $$;

-- Workers learn that there are limits, and idle ones look for tasks of this key.
create or replace function public.turbo_limit_changed() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  if current_setting('turbo.notify', true) is distinct from 'off' and pg_notification_queue_usage() <= 0.5 then
    perform pg_notify('turbo_ctl', 'limits');
  end if;
  if tg_op in ('INSERT', 'UPDATE') then perform public.turbo_wake_waiters(new.concurrency_key::text); end if;
  return null;
end $$;
create or replace trigger turbo_limit_changed after insert or update or delete on public.agent_limits
  for each row execute function public.turbo_limit_changed();
create or replace trigger turbo_limit_truncated after truncate on public.agent_limits
  for each statement execute function public.turbo_limit_changed();

-- The keys of which some tasks run, and more may. Asked once by a claim beside limits, when it meets a key of which a task runs. Reads the
-- running tasks that have a key, and their limits: as many as there are slots, whatever number of limits there are.
create or replace function public.turbo_keys_with_room() returns text[]
language plpgsql stable set search_path = pg_catalog, pg_temp set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off as $$
begin
  return array(select l.concurrency_key
                 from (select r.concurrency_key, count(*) as runs from public.agent_tasks r
                        where r.status = 'running' and r.concurrency_key is not null group by r.concurrency_key) r
                 join public.agent_limits l on l.concurrency_key = r.concurrency_key
                where r.runs < l.running);
end $$;

-- Gives places to tasks, in this order, as far as their keys have some left: the lowest that nobody has. Fewer than the limit may run
-- then, wherever they are: where a limit was lowered, some may be on places above it. Volatile: it sees what was committed after the
-- claim began, and so all that another claim has taken, which had the key before (turbo_take_key). A claim that came by meanwhile has
-- passed the key: where places are left, idle workers are woken.
create or replace function public.turbo_places(tasks public.turbo_task_id[], keys text[])
returns table (task_id public.turbo_task_id, place smallint)
language plpgsql volatile set search_path = pg_catalog, pg_temp set enable_seqscan = off rows 10 as $$
begin
  return query
  with wanted as materialized (
    select w.task, w.key, row_number() over (partition by w.key order by w.n) as nth
      from unnest(tasks, keys) with ordinality w(task, key, n)
  ), free as materialized (
    select k.key, array(select f.place::smallint
                          from (select generate_series(0, m.most - 1)
                                except
                                select coalesce(r.key_slot, 0) from public.agent_tasks r
                                 where r.status = 'running' and r.concurrency_key = k.key) f(place)
                         order by f.place
                         limit greatest(m.most - m.runs, 0)) as places
      from (select distinct w.key from wanted w) k
     cross join lateral (
       select coalesce((select l.running from public.agent_limits l where l.concurrency_key = k.key), 1) as most,
              (select count(*) from public.agent_tasks r where r.status = 'running' and r.concurrency_key = k.key) as runs) m
  )
  select w.task, f.places[w.nth] from wanted w join free f on f.key = w.key where f.places[w.nth] is not null;

  perform public.turbo_wake_waiters(k.key::text)
     from (select w.key, count(*) as asked from unnest(keys) w(key) group by w.key) k
     join public.agent_limits l on l.concurrency_key = k.key and l.running > k.asked
    where l.running > k.asked + (select count(*) from public.agent_tasks r where r.status = 'running' and r.concurrency_key = k.key);
end $$;

-- A run is over: its place is nobody's, whatever ended it, also a worker that is older than places. So a task that an older worker claims
-- later takes place 0.
create or replace function public.turbo_give_up_place(task text) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp set enable_seqscan = off as $$
begin
  update public.agent_tasks t set key_slot = null, turbo_rev = t.turbo_rev + 1
   where t.task_id = task::public.turbo_task_id and t.status is distinct from 'running' and t.key_slot is not null;
end $$;

revoke all on function
  public.turbo_judge_limit(), public.turbo_wake_waiters(text), public.turbo_limit_changed(), public.turbo_keys_with_room(),
  public.turbo_places(public.turbo_task_id[], text[]), public.turbo_give_up_place(text)
  from public;
-- turbo: next
-- The judges are long, and each of these changes a line or two of them, as in 0022_placement.sql: a part of the function that is there takes
-- the place of another. Each part must be found exactly once.
do $$
declare
  change   record;
  text_now text;
begin
  for change in
    select * from (values
      -- Nobody writes a place by hand: an ORM that saves what it read before the claim would give the place of a run to another one.
      (1, 'turbo_judge_insert', 'num_nonnulls(new.fencing_token, new.agent_session_id,', 'num_nonnulls(new.key_slot, new.fencing_token, new.agent_session_id,'),
      (2, 'turbo_judge_insert', 'num_nonnulls(new.cancel_to, new.cancel_requested_at, new.needed,', 'num_nonnulls(new.key_slot, new.cancel_to, new.cancel_requested_at, new.needed,'),
      (3, 'turbo_judge_insert', 'cancel_requested_at, needed or conversation', 'cancel_requested_at, needed, conversation or key_slot'),
      (4, 'turbo_judge_update', $a$'task_id', 'task_type', 'task_description', 'task_priority', 'input_data', 'status',$a$,
       $b$'key_slot', 'task_id', 'task_type', 'task_description', 'task_priority', 'input_data', 'status',$b$),
      (5, 'turbo_judge_update', $a$  new.needs := nullif(new.needs, '{}');$a$, $b$  if new.key_slot is distinct from old.key_slot then
    raise exception 'key_slot is turbo''s own' using errcode = 'check_violation', hint = 'Leave it out of the UPDATE.';
  end if;
  new.needs := nullif(new.needs, '{}');$b$),
      -- Fired for every change of a task that has a key.
      (6, 'turbo_wake_change', $a$
begin
$a$, $b$
begin
  if old.status = 'running' and new.key_slot is not null and new.status is distinct from 'running' then
    perform public.turbo_give_up_place(new.task_id::text);
  end if;
$b$)
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
    execute format('grant select (key_slot), update (key_slot) on public.agent_tasks to %1$s;
                    grant select on public.agent_limits to %1$s;
                    grant execute on function public.turbo_wake_waiters(text), public.turbo_keys_with_room(), public.turbo_places(public.turbo_task_id[], text[]) to %1$s',
                   case worker.grantee when 'PUBLIC' then 'public' else quote_ident(worker.grantee) end);
  end loop;
end $$;
-- turbo: next
-- An older worker that loses a race for a key meets this name for the first time: it goes around the row, and finds the key taken.
create unique index concurrently if not exists agent_tasks_one_running_per_place
  on public.agent_tasks (concurrency_key, (coalesce(key_slot, 0::smallint)))
  where status = 'running' and concurrency_key is not null;
-- turbo: next
-- After the other is there: it serves all statements that used this one.
drop index concurrently if exists public.agent_tasks_one_running_per_key;
