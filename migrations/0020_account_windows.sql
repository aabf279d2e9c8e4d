-- turbo: compatible-from 3
-- What agents report of the windows of their accounts: how much of five hours or of a week is used, and when it is reset. A worker
-- writes a row when a figure changes; workers with several accounts read them to choose one.

-- A table of this name that is there already is the deployment's own, and means something else: nothing is changed then.
do $$
begin
  if to_regclass('public.agent_account_windows') is not null
     and coalesce(obj_description(to_regclass('public.agent_account_windows'), 'pg_class'), '') not like '%(turbo)' then
    raise exception 'there is a table agent_account_windows already, and turbo needs one of this name for itself'
      using errcode = 'duplicate_table',
      hint = 'Rename it (ALTER TABLE public.agent_account_windows RENAME TO ...) and run turbo migrate again.';
  end if;
end $$;

create table if not exists public.agent_account_windows (
  account     text not null,
  time_window text not null,             -- five_hour, seven_day, ... as the agent names it
  model       text not null default '',  -- '': it counts for all models
  utilization float8 check (utilization between 0 and 1),  -- null: not reported
  resets_at   timestamptz                -- null: not known
              check (resets_at between timestamptz '1970-01-01 00:00:00+00' and timestamptz '9000-01-01 00:00:00+00'),
  status      text not null default '',  -- the service's own word
  observed_at timestamptz not null default clock_timestamp()
              check (observed_at between timestamptz '1970-01-01 00:00:00+00' and timestamptz '9000-01-01 00:00:00+00'),
  primary key (account, time_window, model)
) with (fillfactor = 50);
comment on table public.agent_account_windows is 'how much of the windows of each account is used (turbo)';

-- An account whose service wants a payment is paused until a person acts. For workers from before, which stop at a reason that they do
-- not know, that is a pause by hand.
comment on column public.agent_accounts.unavailable is
  'why it is not open. reason is null: it is away or overloaded. reason is manual: its credits are used up, and nobody has paused it. Means nothing while state is open';

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
    execute format('grant select, insert, update on public.agent_account_windows to %1$s',
                   case worker.grantee when 'PUBLIC' then 'public' else quote_ident(worker.grantee) end);
  end loop;
end $$;
