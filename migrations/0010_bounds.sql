-- turbo: compatible-from 3
-- Bounds for the numbers and moments that others compute with. Triggers and statements of every worker and every inserter
-- read these rows. One infinite lease would make all of them fail, so each value is brought within its bounds where it is
-- written. A value is moved to its nearest bound and not refused: a refusal would stop the heartbeat of a worker whose row an
-- older turbo wrote. NaN is greater than every number. The columns are listed so that a claim, which sets the idle flag of a
-- worker, pays for none of this. A moment is between the years 2000 and 9999: every reader can subtract and show it.

create or replace function public.turbo_bound_worker() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  earliest constant timestamptz := '2000-01-01 00:00:00+00';
  latest   constant timestamptz := '9999-12-30 00:00:00+00';
begin
  if tg_op = 'INSERT' and octet_length(new.worker_id) > 255 then
    raise exception 'worker_id has % bytes, more than 255', octet_length(new.worker_id) using errcode = 'check_violation',
      hint = 'A worker makes its id of its name, its pid and six digits: choose a shorter name.';
  end if;
  new.heartbeat_seconds := least(greatest(new.heartbeat_seconds, 0.0001), 86400);
  new.lease_seconds     := least(greatest(new.lease_seconds, 0.0001), 1e9);
  new.poll_seconds      := least(greatest(new.poll_seconds, 0.001), 86400);
  new.slots             := least(greatest(new.slots, 0), 100000);
  new.busy              := least(greatest(new.busy, 0), 100000);
  new.silent_beats      := least(greatest(new.silent_beats, 0), 1000000000);
  new.heartbeat_at      := case when new.heartbeat_at is not null then least(greatest(new.heartbeat_at, earliest), latest) end;
  new.started_at        := case when new.started_at is not null then least(greatest(new.started_at, earliest), latest) end;
  new.counted_at        := case when new.counted_at is not null then least(greatest(new.counted_at, earliest), latest) end;
  new.name              := left(new.name, 255);
  new.host              := left(new.host, 255);
  new.version           := left(new.version, 255);
  new.metrics_address   := left(new.metrics_address, 1000);
  -- One dimension, no nulls, no more names than a worker can have.
  if array_ndims(new.queues) > 1 or array_position(new.queues, null) is not null or cardinality(new.queues) > 1000 then
    new.queues := array(select q.name from unnest(new.queues) q(name) where q.name is not null limit 1000);
  end if;
  if array_ndims(new.accounts) > 1 or array_position(new.accounts, null) is not null or cardinality(new.accounts) > 1000 then
    new.accounts := array(select a.name from unnest(new.accounts) a(name) where a.name is not null limit 1000);
  end if;
  if jsonb_typeof(new.problems) <> 'array' or octet_length(new.problems::text) > 100000 then
    new.problems := '[]';
  end if;
  if jsonb_typeof(new.labels) <> 'object' or octet_length(new.labels::text) > 100000 then
    new.labels := '{}';
  end if;
  return new;
end $$;

-- `until` may be infinite: closed until a person opens it.
create or replace function public.turbo_bound_account() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  earliest constant timestamptz := '2000-01-01 00:00:00+00';
  latest   constant timestamptz := '9999-12-30 00:00:00+00';
begin
  if new.until <> 'infinity' then
    new.until := case when new.until is not null then least(greatest(new.until, earliest), latest) end;
  end if;
  new.probe_since := case when new.probe_since is not null then least(greatest(new.probe_since, earliest), latest) end;
  new.probe_until := case when new.probe_until is not null then least(greatest(new.probe_until, earliest), latest) end;
  new.good_since  := case when new.good_since is not null then least(greatest(new.good_since, earliest), latest) end;
  new.changed_at  := case when new.changed_at is not null then least(greatest(new.changed_at, earliest), latest) end;
  new.trips       := least(greatest(new.trips, 0), 1000000);
  new.why         := left(new.why, 10000);
  return new;
end $$;

create or replace function public.turbo_bound_queue() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  earliest constant timestamptz := '2000-01-01 00:00:00+00';
  latest   constant timestamptz := '9999-12-30 00:00:00+00';
begin
  new.paused_at := case when new.paused_at is not null then least(greatest(new.paused_at, earliest), latest) end;
  new.paused_by := left(new.paused_by, 255);
  new.reason    := left(new.reason, 10000);
  return new;
end $$;

-- A leader's lease lasts for seconds.
create or replace function public.turbo_bound_leader() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  earliest constant timestamptz := '2000-01-01 00:00:00+00';
  latest   constant timestamptz := '9999-12-30 00:00:00+00';
begin
  new.since      := case when new.since is not null then least(greatest(new.since, earliest), latest) end;
  new.expires_at := least(greatest(new.expires_at, earliest), clock_timestamp() + interval '1 day');
  return new;
end $$;

create or replace function public.turbo_bound_progress() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  earliest constant timestamptz := '2000-01-01 00:00:00+00';
  latest   constant timestamptz := '9999-12-30 00:00:00+00';
begin
  new.input_tokens  := least(greatest(new.input_tokens, 0), 1000000000000000);
  new.output_tokens := least(greatest(new.output_tokens, 0), 1000000000000000);
  new.updated_at    := case when new.updated_at is not null then least(greatest(new.updated_at, earliest), latest) end;
  new.text          := left(new.text, 1000);
  return new;
end $$;

revoke all on function
  public.turbo_bound_worker(), public.turbo_bound_account(), public.turbo_bound_queue(),
  public.turbo_bound_leader(), public.turbo_bound_progress()
  from public;

create or replace trigger turbo_bound_worker before insert or update of
  heartbeat_seconds, lease_seconds, poll_seconds, slots, busy, silent_beats, heartbeat_at, started_at, counted_at,
  name, host, version, metrics_address, queues, accounts, problems, labels
  on public.agent_workers for each row execute function public.turbo_bound_worker();
create or replace trigger turbo_bound_account before insert or update on public.agent_accounts
  for each row execute function public.turbo_bound_account();
create or replace trigger turbo_bound_queue before insert or update on public.agent_queues
  for each row execute function public.turbo_bound_queue();
create or replace trigger turbo_bound_leader before insert or update on public.agent_leader
  for each row execute function public.turbo_bound_leader();
create or replace trigger turbo_bound_progress before insert or update on public.agent_progress
  for each row execute function public.turbo_bound_progress();
-- turbo: next
-- The rows that are there already.
update public.agent_workers set lease_seconds = lease_seconds;
update public.agent_accounts set until = until;
update public.agent_queues set paused_at = paused_at;
update public.agent_leader set since = since;
update public.agent_progress set updated_at = updated_at;
