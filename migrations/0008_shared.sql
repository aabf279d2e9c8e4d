-- turbo: no-transaction
-- turbo: compatible-from 3
-- What any login can hold or fill: an advisory lock, the server's notification queue, a queue that nobody serves, created_at.

-- Whose claim is taking a concurrency_key now. A claim locks the row of the key's slot until it commits, and passes by a key
-- whose row is locked: two batches that met the same keys in different orders would wait for each other's index entries. This
-- guards nothing else. Keys that share a slot pass each other by, for the milliseconds of a claim. Whoever may update the table,
-- as workers may, can hold a lock; an advisory lock could be held by any login.
create table if not exists public.turbo_key_slots (
  slot integer primary key
);
insert into public.turbo_key_slots (slot) select generate_series(0, 16383) on conflict (slot) do nothing;

create or replace function public.turbo_take_key(key text) returns boolean
language plpgsql set search_path = pg_catalog, pg_temp set enable_seqscan = off as $$
begin
  perform from public.turbo_key_slots s where s.slot = hashtext(key) & 16383 for update skip locked;
  -- without the row (a restore of some tables) nothing says that the key is being taken
  return found or not exists (select from public.turbo_key_slots s where s.slot = hashtext(key) & 16383);
end $$;
revoke all on table public.turbo_key_slots from public;

-- Whoever may write a claim may lock them: turbo_worker, where turbo migrate --roles made it, and roles with grants by hand.
do $$
declare
  worker record;
begin
  for worker in
    select distinct p.grantee from information_schema.column_privileges p
     where p.table_schema = 'public' and p.table_name = 'agent_tasks' and p.column_name = 'fencing_token'
       and p.privilege_type = 'UPDATE'
  loop
    execute format('grant select, update on table public.turbo_key_slots to %s',
                   case worker.grantee when 'PUBLIC' then 'public' else quote_ident(worker.grantee) end);
    execute format('grant execute on function public.turbo_take_key(text) to %s',
                   case worker.grantee when 'PUBLIC' then 'public' else quote_ident(worker.grantee) end);
  end loop;
end $$;
-- turbo: next
-- The server has one notification queue, for all its databases. A session that listens in an open transaction keeps it from
-- being emptied, and when it is full, a transaction that notifies fails at its commit, where no trigger can catch it. So nothing
-- is sent while it is more than half full; workers then look every second. The other half is room for what is between this
-- look and its commit. Each trigger asks by itself: a function of turbo's own could be given an overload.

create or replace function public.turbo_wake_insert() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp
set enable_seqscan = off  -- the probe is by the partial index; a hundred busy workers' rows are 7 us
as $$
declare
  fleet record;   -- the idle workers of one queue
  told  bigint;   -- how many of them these rows can occupy
begin
  if current_setting('transaction_isolation') <> 'read committed' then
    -- The snapshot of the flag may be hours old: no gate.
    if current_setting('turbo.notify', true) = 'off' or pg_notification_queue_usage() > 0.5 then return null; end if;
    perform pg_notify('turbo_q_' || i.queue, '')
       from (select distinct n.queue from new_rows n
              where n.status = 'pending' and n.queue ~ '^[a-z0-9_-]{1,40}$') i;
    return null;
  end if;
  -- The busy fleet's path first: one probe of a partial index that is then empty.
  if not exists (select from public.agent_workers w where w.idle) then return null; end if;
  if current_setting('turbo.notify', true) = 'off' then return null; end if;
  for fleet in
    select q.queue, max(w.poll_seconds) as poll_seconds, count(*) as idle, max(octet_length(w.worker_id)) as longest
      from public.agent_workers w cross join lateral unnest(w.queues) q(queue)
     where w.idle and w.heartbeat_at > clock_timestamp() - make_interval(secs => w.lease_seconds)
       and not exists (select from public.agent_queues p where p.queue = q.queue and p.paused)
     group by q.queue
  loop
    select count(*) into told
      from (select from new_rows n
             where n.queue = fleet.queue
               and (n.status = 'pending'
                    or n.status = 'scheduled'
                       and n.run_after < clock_timestamp() + make_interval(secs => fleet.poll_seconds))
             limit fleet.idle) s;
    if told = 0 then
      continue;
    elsif pg_notification_queue_usage() > 0.5 then
      return null;
    elsif fleet.idle <= 4 or 2 * told + 3 > fleet.idle or fleet.longest > 55 then
      perform pg_notify('turbo_q_' || fleet.queue, '');
    else
      perform pg_notify('turbo_w_' || c.worker_id, fleet.queue || ' ' || greatest(c.place - told, 0))
         from (select t.worker_id, row_number() over (order by t.late, t.turn, random()) as place
                 from (select w.worker_id, l.late, row_number() over (partition by l.late, w.host order by random()) as turn
                         from public.agent_workers w
                        cross join lateral (select w.heartbeat_at < clock_timestamp()
                                                   - make_interval(secs => w.heartbeat_seconds * 1.5) as late) l
                        where w.idle and fleet.queue = any (w.queues)
                          and w.heartbeat_at > clock_timestamp() - make_interval(secs => w.lease_seconds)) t
                order by 2
                limit told + 3) c;
    end if;
  end loop;
  return null;
end $$;

create or replace function public.turbo_wake(queue text) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  if current_setting('turbo.notify', true) = 'off' then return; end if;
  if current_setting('transaction_isolation') = 'read committed'
     and not exists (select from public.agent_workers w
                      where w.idle and turbo_wake.queue = any (w.queues)
                        and w.heartbeat_at > clock_timestamp() - make_interval(secs => w.lease_seconds))
  then return; end if;
  if turbo_wake.queue ~ '^[a-z0-9_-]{1,40}$' and pg_notification_queue_usage() <= 0.5 then
    perform pg_notify('turbo_q_' || turbo_wake.queue, '');
  end if;
end $$;

-- The cast: an adopted queue may be varchar, and whoever may create in public could make a turbo_wake(varchar), which fits better.
create or replace function public.turbo_wake_update() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  perform public.turbo_wake(new.queue::text);
  return null;
end $$;

create or replace function public.turbo_wake_key() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  if current_setting('turbo.notify', true) = 'off' then return null; end if;
  perform pg_notify('turbo_q_' || i.queue, '')
     from (select distinct q.queue
             from public.agent_workers w cross join lateral unnest(w.queues) q(queue)
            where w.idle and w.heartbeat_at > clock_timestamp() - make_interval(secs => w.lease_seconds)) i
    where exists (select from public.agent_tasks t
                   where t.status = 'pending' and t.concurrency_key = old.concurrency_key and t.queue = i.queue)
      and pg_notification_queue_usage() <= 0.5;
  return null;
end $$;

create or replace function public.turbo_notify_control() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  if current_setting('turbo.notify', true) is distinct from 'off' and pg_notification_queue_usage() <= 0.5 then
    perform pg_notify('turbo_ctl', tg_argv[0]);
  end if;
  return null;
end $$;
-- turbo: next
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
-- turbo: next
-- Promotion, and the timer for the next due row, queue by queue: what is due in a queue that nobody serves is in nobody's way.
create index concurrently if not exists agent_tasks_scheduled
  on public.agent_tasks (queue, run_after) where status = 'scheduled';
-- turbo: next
drop index concurrently if exists public.agent_tasks_due;
