-- The tables. On a fresh database this creates them; an existing agent_tasks or agent_actions is adopted in place:
-- columns are added (constant or stable defaults only, so nothing is rewritten), none dropped, renamed or retyped.

-- Whose table is it? Triggers are lenient with an adopted table's own statuses.
create table if not exists public.turbo_meta (
  key   text primary key,
  value jsonb not null
);
insert into public.turbo_meta (key, value)
values ('adopted', to_jsonb(to_regclass('public.agent_tasks') is not null))
on conflict (key) do nothing;

-- An adopted key may be varchar, uuid or int, an adopted status an enum: the statements cast their parameters to
-- these two domains, and so never to a wrong type.
do $$
declare
  id_type     text := 'text';
  status_type text := 'text';
begin
  if to_regclass('public.agent_tasks') is not null then
    select format_type(atttypid, atttypmod) into id_type from pg_attribute
     where attrelid = 'public.agent_tasks'::regclass and attname = 'task_id' and not attisdropped;
    select format_type(atttypid, atttypmod) into status_type from pg_attribute
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

create table if not exists public.agent_tasks (
  task_id            text primary key default ('t_' || left(replace(gen_random_uuid()::text, '-', ''), 20)),
  task_type          text not null default 'default',
  task_description   text not null,
  task_priority      integer default 5,
  input_data         jsonb,
  status             text not null default 'pending',
  output_data        jsonb,
  error_message      text,
  execution_time_ms  bigint,
  assigned_worker_id text,
  timeout_seconds    integer default 300,
  max_retries        integer default 3,
  retry_count        integer not null default 0,
  created_at         timestamptz not null default now(),
  started_at         timestamptz,
  completed_at       timestamptz
);

alter table public.agent_tasks
  add column if not exists queue               text        not null default 'default',
  add column if not exists run_after           timestamptz not null default now(),
  add column if not exists fencing_token       bigint,
  add column if not exists idempotency_key     text,
  add column if not exists concurrency_key     text,
  add column if not exists agent_session_id    text,
  add column if not exists failure_kind        text,
  add column if not exists cancel_requested_at timestamptz,
  add column if not exists cancel_to           text,
  add column if not exists infra_count         integer     not null default 0,
  add column if not exists turbo_rev           bigint      not null default 0;

-- Every task is updated at least twice, and in place nowhere: status is in every partial index's predicate.
alter table public.agent_tasks set (
  fillfactor = 85, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_insert_scale_factor = 0.05,
  autovacuum_analyze_scale_factor = 0.05
);

comment on column public.agent_tasks.run_after is
  'the moment the task became, or becomes, runnable; waiting time is measured from it';
comment on column public.agent_tasks.fencing_token is
  'positive: a live claim, or a rescued one whose late result is still welcome; negative: consumed; null: never claimed by turbo';
comment on column public.agent_tasks.cancel_to is
  'what a running task becomes once its program is gone: cancelled, pending, scheduled, completed or failed';
comment on column public.agent_tasks.infra_count is
  'rescues and infrastructure outcomes so far; at the cap the task is failed as poison';
comment on column public.agent_tasks.turbo_rev is
  'raised by every statement of turbo; an update that leaves it alone is a hand edit';

create table if not exists public.agent_actions (
  action_id         bigint generated always as identity primary key,
  task_id           text,
  action_type       text not null,
  success           boolean,
  executed_at       timestamptz not null default clock_timestamp(),
  execution_time_ms bigint
);

alter table public.agent_actions
  add column if not exists actor         text,
  add column if not exists from_status   text,
  add column if not exists to_status     text,
  add column if not exists fencing_token bigint,
  add column if not exists detail        jsonb;

alter table public.agent_actions set (autovacuum_vacuum_insert_scale_factor = 0.05);

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
