-- The tables. A fresh database gets all of them. Where agent_tasks or agent_actions exists already, nothing here touches it:
-- turbo/migrate/adopt.py makes the statements that fit it (columns added; none dropped, renamed or retyped), to be run
-- between this file and the next. turbo/migrate/contract.py names the same columns; a test holds the two together.

-- First all that is turbo's alone, in one transaction: while turbo_meta is missing, whatever has one of these names is
-- somebody else's. Whose is agent_tasks? Triggers are lenient with an adopted table's own statuses.
create table if not exists public.turbo_meta (
  key   text primary key,
  value jsonb not null
);
insert into public.turbo_meta (key, value)
values ('adopted', to_jsonb(to_regclass('public.agent_tasks') is not null))
on conflict (key) do nothing;

-- An adopted key may be varchar, uuid or int, an adopted status an enum: the statements cast their parameters to
-- these two domains, and so never to a wrong type. Without the column's length: a cast to varchar(100) cuts silently.
do $$
declare
  id_type     text := 'text';
  status_type text := 'text';
begin
  if to_regclass('public.agent_tasks') is not null then
    select format_type(atttypid, -1) into id_type from pg_attribute
     where attrelid = 'public.agent_tasks'::regclass and attname = 'task_id' and not attisdropped;
    select format_type(atttypid, -1) into status_type from pg_attribute
     where attrelid = 'public.agent_tasks'::regclass and attname = 'status' and not attisdropped;
  end if;
  if to_regtype('public.turbo_task_id') is null then
    execute format('create domain public.turbo_task_id as %s', id_type);
  end if;
  if to_regtype('public.turbo_status') is null then
    execute format('create domain public.turbo_status as %s', status_type);
  end if;
end $$;

create sequence if not exists public.turbo_fence_seq;

-- One row a worker process; its id is unique per process start. Beats rewrite it every ten seconds and the idle flag
-- more often, so the page is kept mostly empty: updates of a few rows stay on a few pages.
create table if not exists public.agent_workers (
  worker_id         text primary key,
  name              text not null,
  host              text not null,
  pid               integer not null,
  version           text not null,
  slots             integer not null,
  queues            text[] not null,
  labels            jsonb not null default '{}',
  accounts          text[] not null default '{}',
  metrics_address   text,
  state             text not null default 'up' check (state in ('up', 'draining', 'paused', 'dead')),
  idle              boolean not null default false,
  busy              integer not null default 0,
  started_at        timestamptz not null default clock_timestamp(),
  heartbeat_at      timestamptz not null default clock_timestamp(),
  heartbeat_seconds double precision not null default 10,
  lease_seconds     double precision not null default 60,
  poll_seconds      double precision not null default 30,
  silent_beats      integer not null default 0,
  counted_at        timestamptz
) with (fillfactor = 30, autovacuum_vacuum_threshold = 200, autovacuum_vacuum_scale_factor = 0);
comment on column public.agent_workers.silent_beats is
  'beats that others counted since this worker last beat; silent_beats * heartbeat_seconds >= lease_seconds is dead';

create table if not exists public.agent_leader (
  one        boolean primary key default true check (one),
  holder     text not null,
  since      timestamptz not null,
  expires_at timestamptz not null
);

create table if not exists public.agent_queues (
  queue      text primary key check (queue ~ '^[a-z0-9_-]{1,40}$'),
  paused     boolean not null default true,
  paused_at  timestamptz not null default now(),
  paused_by  text not null default session_user,
  reason     text
);

create table if not exists public.agent_accounts (
  account     text not null,
  host        text not null,
  state       text not null default 'open' check (state in ('open', 'suspect', 'paused', 'half_open')),
  reason      text check (reason in ('auth', 'usage_limit', 'manual')),
  until       timestamptz,
  why         text,
  trips       integer not null default 0,
  probe_by    text,
  probe_since timestamptz,
  probe_until timestamptz,
  good_since  timestamptz,
  changed_at  timestamptz not null default now(),
  primary key (account, host)
);

create table if not exists public.agent_progress (
  task_id       public.turbo_task_id primary key,
  fencing_token bigint not null,
  worker_id     text not null,
  text          text not null default '',
  input_tokens  bigint not null default 0,
  output_tokens bigint not null default 0,
  updated_at    timestamptz not null default clock_timestamp()
) with (fillfactor = 50, autovacuum_vacuum_threshold = 200, autovacuum_vacuum_scale_factor = 0);
-- turbo: next
-- Every task is updated at least twice, and in place nowhere, as status is in the partial indexes' predicates: room kept free in
-- the pages would buy nothing. Vacuum comes by dead rows, not by a fifth of all history. The figures: docs/tuning.md.
create table if not exists public.agent_tasks (
  task_id             text primary key default ('t_' || left(replace(gen_random_uuid()::text, '-', ''), 20)),
  task_type           text not null default 'default',
  task_description    text not null,
  task_priority       integer default 5,
  input_data          jsonb,
  status              text not null default 'pending',
  output_data         jsonb,
  error_message       text,
  execution_time_ms   bigint,
  assigned_worker_id  text,
  timeout_seconds     integer default 300,
  max_retries         integer default 3,
  retry_count         integer not null default 0,
  created_at          timestamptz not null default now(),
  started_at          timestamptz,
  completed_at        timestamptz,
  queue               text not null default 'default',
  run_after           timestamptz not null default now(),
  fencing_token       bigint,
  idempotency_key     text,
  concurrency_key     text,
  agent_session_id    text,
  failure_kind        text,
  cancel_requested_at timestamptz,
  cancel_to           text,
  infra_count         integer not null default 0,
  turbo_rev           bigint not null default 0
) with (
  autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_insert_scale_factor = 0.05, autovacuum_analyze_scale_factor = 0.05
);
-- turbo: next
-- The trail: the columns that deployments have already, and turbo's. Its task_id is of the type that agent_tasks has.
do $$
begin
  if to_regclass('public.agent_actions') is null then
    execute format($t$
      create table public.agent_actions (
        action_id         bigint generated always as identity primary key,
        task_id           %s,
        action_type       text not null,
        success           boolean,
        executed_at       timestamptz not null default clock_timestamp(),
        execution_time_ms bigint,
        actor             text,
        from_status       text,
        to_status         text,
        fencing_token     bigint,
        detail            jsonb
      ) with (autovacuum_vacuum_insert_scale_factor = 0.05)$t$,
      (select format_type(typbasetype, typtypmod) from pg_type where oid = 'public.turbo_task_id'::regtype));
  end if;
end $$;
