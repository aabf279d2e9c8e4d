-- turbo: compatible-from 3
-- Budgets: what may be used in a period, of an account, a queue, a task type, by one who submits. What runs used is in agent_usage; a
-- fold (turbo_fold) adds it to the budgets it belongs to, each row once, and closes a budget that is spent. A finish only inserts
-- usage, so a person who has a budget's row locked holds up no result.

-- A table of these names that is there already is the deployment's own, and means something else: nothing is changed then.
do $$
declare
  taken text;
begin
  select t.name into taken
    from (values ('agent_budgets'), ('agent_events')) t(name)
   where to_regclass('public.' || t.name) is not null
     and coalesce(obj_description(to_regclass('public.' || t.name), 'pg_class'), '') not like '%(turbo)';
  if taken is not null then
    raise exception 'there is a table % already, and turbo needs one of this name for itself', taken
      using errcode = 'duplicate_table',
      hint = format('Rename it (ALTER TABLE public.%s RENAME TO ...) and run turbo migrate again.', taken);
  end if;
end $$;

create table if not exists public.agent_budgets (
  name              text primary key,
  -- what it covers; null: any
  account           text,
  queue             text,
  task_type         text,
  submitted_by      text,
  period            text not null default 'day',
  timezone          text not null default 'UTC',
  -- how much, in a period; null: no limit of this kind, 0: nothing
  usd               numeric,
  tokens            bigint,
  runs              bigint,
  warn_at           double precision not null default 0.8,
  created_by        text not null default session_user,
  created_at        timestamptz not null default now(),
  updated_at        timestamptz not null default now(),
  -- turbo's own
  since             timestamptz check (since between '1970-01-01 00:00+00' and '9000-01-01 00:00+00'),
  spent_usd         numeric not null default 0,
  spent_tokens      bigint not null default 0,
  spent_runs        bigint not null default 0,
  warned            boolean not null default false,
  paused_until      timestamptz check (paused_until between '1970-01-01 00:00+00' and '9000-01-01 00:00+00')
) with (fillfactor = 50, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_scale_factor = 0.02);
comment on table public.agent_budgets is
  'what runs may use in a period: INSERT INTO agent_budgets (name, usd, period, account) VALUES (''daily'', 50, ''day'', ''alpha-max'') (turbo)';
comment on column public.agent_budgets.period is 'hour, day, week (from Monday), month or total, on the clocks of timezone';
comment on column public.agent_budgets.usd is 'US dollars; what has no cost in agent_usage counts nothing';
comment on column public.agent_budgets.tokens is 'input, output and cache writes';
comment on column public.agent_budgets.runs is 'runs, as turbo costs counts them; command and python tasks count as well';
comment on column public.agent_budgets.warn_at is 'the share of a limit from which on the budget is nearly spent';
comment on column public.agent_budgets.since is 'the beginning of the period that is counted; null: a worker is to count it';
comment on column public.agent_budgets.warned is 'it is nearly spent, or spent, and that was said';
comment on column public.agent_budgets.paused_until is 'spent: nothing that it covers is claimed until then; 9000-01-01 for a total';

-- Events that belong to no task: budget_warned, budget_spent, schedule_failed. about: the name of the budget or the schedule.
create table if not exists public.agent_events (
  event_id bigint generated always as identity primary key,
  at       timestamptz not null default clock_timestamp(),
  event    text not null,
  about    text not null,
  detail   jsonb
);
comment on table public.agent_events is 'what happened to budgets and schedules (turbo)';
create index if not exists agent_events_at on public.agent_events (at);

-- What no budget has counted yet.
create index if not exists agent_usage_open on public.agent_usage (at) where not counted;

-- The period that holds a moment. An hour ends an hour later; the others begin at midnight on the clocks of the zone. Where midnight
-- comes twice, the second one counts; where it does not come, the first moment after it.
create or replace function public.turbo_budget_period(period text, zone text, present timestamptz, out since timestamptz, out ends timestamptz)
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
  if period = 'total' then
    since := '1970-01-01 00:00+00'; ends := '9000-01-01 00:00+00';
    return;
  end if;
  begin
    since := date_trunc(period, present, zone);
  exception when invalid_parameter_value then      -- the server's list of time zones has changed
    zone := 'UTC';
    since := date_trunc(period, present, zone);
  end;
  if period = 'hour' then
    ends := since + interval '1 hour';
  elsif since > present then                       -- between the two midnights
    ends := since;
    since := date_trunc(period, (since at time zone zone) - ('1 ' || period)::interval) at time zone zone;
  else
    ends := date_trunc(period, (since at time zone zone) + ('1 ' || period)::interval) at time zone zone;
  end if;
end $$;

-- What is written by hand, judged. A budget that is new or changed counts its period anew: since is null until a worker has done so,
-- and until then nothing that it covers is claimed. It is refused while a worker lives that is older and would not keep to it.
-- A restore brings rows back as they were: it is the owner's COPY, or has turbo.restore on, and its rows are older than its transaction.
create or replace function public.turbo_judge_budget() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  by_whom name := case current_setting('role') when 'none' then session_user else current_setting('role')::name end;
  shown   text := public.turbo_shown(left(new.name, 200)::text, 200::integer);
  wrong   text;
  older   text;
begin
  if tg_op = 'INSERT' then
    if new.created_at < transaction_timestamp() and new.created_by is not null
       and (current_query() ~* '^[[:space:]]*copy[[:space:]]' or coalesce(current_setting('turbo.restore', true), '') = 'on')
       and (select pg_has_role(by_whom, c.relowner, 'usage') from pg_class c where c.oid = tg_relid)
    then return new; end if;
    new.created_by := session_user; new.created_at := now();
  else
    if new.name is distinct from old.name then
      raise exception 'the name of budget % cannot change', public.turbo_shown(left(old.name, 200)::text, 200::integer)
        using errcode = 'check_violation', hint = 'Insert another budget, and delete this one.';
    end if;
    if (new.account, new.queue, new.task_type, new.submitted_by, new.period, new.timezone, new.usd, new.tokens, new.runs, new.warn_at)
       is not distinct from
       (old.account, old.queue, old.task_type, old.submitted_by, old.period, old.timezone, old.usd, old.tokens, old.runs, old.warn_at)
    then return new; end if;
  end if;

  if new.name is null or new.name !~ '[^[:space:]]' or length(new.name) > 200 or new.name ~ '[[:cntrl:]]' then
    raise exception '%', case when new.name is null or new.name !~ '[^[:space:]]' then 'the name of a budget is empty'
                              when length(new.name) > 200 then format('the name of a budget has %s characters, more than 200', length(new.name))
                              else format('the name of budget %s has a control character', shown) end
      using errcode = 'check_violation', hint = 'Write a short name, as in ''daily''.';
  end if;
  if coalesce(new.period, '') not in ('hour', 'day', 'week', 'month', 'total') then
    raise exception 'period of budget % is %', shown,
      case when new.period is null then 'null' else '''' || public.turbo_shown(new.period::text, 60::integer) || '''' end
      using errcode = 'check_violation', hint = 'Write ''hour'', ''day'', ''week'', ''month'' or ''total'', or leave it out for ''day''.';
  end if;
  if new.timezone is null or new.timezone in ('localtime', 'posixrules', 'Factory')
     or not exists (select from pg_timezone_names z where z.name = new.timezone) then
    raise exception 'timezone % is unknown', case when new.timezone is null then 'null' else '''' || public.turbo_shown(new.timezone::text, 60::integer) || '''' end
      using errcode = 'check_violation', hint = 'Write a name as in ''Europe/Berlin'', with its capitals, or leave it out for ''UTC''.';
  end if;
  wrong := case when new.usd < 0 or new.usd > 1e12 then 'usd' when new.tokens < 0 then 'tokens' when new.runs < 0 then 'runs' end;
  if wrong is not null then
    raise exception '% of budget % is %', wrong, shown, case wrong when 'usd' then new.usd::text when 'tokens' then new.tokens::text else new.runs::text end
      using errcode = 'check_violation', hint = 'Write 0 or more (0 closes what it covers), or leave it out for no limit of this kind.';
  end if;
  if num_nonnulls(new.usd, new.tokens, new.runs) = 0 then
    raise exception 'budget % limits nothing', shown
      using errcode = 'check_violation', hint = 'Write usd, tokens or runs.';
  end if;
  if new.warn_at is null or new.warn_at <= 0 or new.warn_at > 1 then
    raise exception 'warn_at of budget % is %', shown, coalesce(new.warn_at::text, 'null')
      using errcode = 'check_violation', hint = 'Write a share of the limit, above 0 and up to 1, or leave it out for 0.8.';
  end if;
  wrong := case when new.account = '' then 'account' when new.queue = '' then 'queue' when new.task_type = '' then 'task_type'
                when new.submitted_by = '' then 'submitted_by' end;
  if wrong is not null then
    raise exception '% of budget % is empty', wrong, shown using errcode = 'check_violation', hint = 'Leave it out (null) for any.';
  end if;
  select w.worker_id into older
    from public.agent_workers w
   where w.state <> 'dead' and coalesce(w.schema, 0) < 21 and (new.queue is null or w.queues && array[new.queue])
   order by w.worker_id limit 1;
  if older is not null then
    raise exception 'budget % would not be kept: worker % is older, and knows no budgets', shown, public.turbo_shown(older::text, 200::integer)
      using errcode = 'object_not_in_prerequisite_state', hint = 'Stop that worker, or start it again with this turbo.';
  end if;

  new.updated_at := now();
  new.since := null; new.spent_usd := 0; new.spent_tokens := 0; new.spent_runs := 0; new.warned := false; new.paused_until := null;
  if current_setting('turbo.notify', true) is distinct from 'off' and pg_notification_queue_usage() <= 0.5 then
    perform pg_notify('turbo_ctl', 'budgets');
  end if;
  return new;
end $$;
-- Not for what turbo itself writes: its statements name no column of these.
create or replace trigger turbo_judge_budget
  before insert or update of name, account, queue, task_type, submitted_by, period, timezone, usd, tokens, runs, warn_at
  on public.agent_budgets for each row execute function public.turbo_judge_budget();

create or replace function public.turbo_budget_gone() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  if current_setting('turbo.notify', true) is distinct from 'off' and pg_notification_queue_usage() <= 0.5 then
    perform pg_notify('turbo_ctl', 'budgets');
  end if;
  return null;
end $$;
create or replace trigger turbo_budget_gone after delete or truncate on public.agent_budgets
  for each statement execute function public.turbo_budget_gone();

-- All budgets as a worker needs them: {"fold": whether there is something to fold, "budgets": [{name, account, queue, task_type,
-- submitted_by, closed, behind, in, usd_left, runs}]}, by name. closed: spent. in: seconds until its period ends, null for a total.
-- behind: some usage that it covers is not added yet. usd_left: US dollars, null without a limit. runs: it counts runs.
-- A fold that follows a finish takes milliseconds: usage is unfolded when it is older than `aged`, or covered by one of `known_behind`.
create or replace function public.turbo_budgets(present timestamptz default null, aged interval default '1 second', known_behind text[] default null)
returns jsonb
language plpgsql stable security definer set search_path = pg_catalog, pg_temp set enable_seqscan = off as $$
declare
  moment timestamptz := coalesce(present, clock_timestamp());
  listed jsonb;
  first  timestamptz;
  fold   boolean;
begin
  select min(p.since) into first
    from public.agent_budgets b
   cross join lateral public.turbo_budget_period(b.period::text, b.timezone::text, moment::timestamptz) p;
  if first is null then return null; end if;
  fold := known_behind is null
          and exists (select from public.agent_usage u where not u.counted and u.at >= first and u.at <= moment - aged);
  select jsonb_agg(jsonb_build_object(
           'name', b.name, 'account', b.account, 'queue', b.queue, 'task_type', b.task_type, 'submitted_by', b.submitted_by,
           'closed', b.paused_until is not null,
           'behind', b.since is null or coalesce(b.name = any (known_behind), false)
                     or fold and exists (select from public.agent_usage u
                                          where not u.counted and u.at >= p.since and u.at <= moment - aged
                                            and (b.account is null or b.account = u.account) and (b.queue is null or b.queue = u.queue)
                                            and (b.task_type is null or b.task_type = u.task_type)
                                            and (b.submitted_by is null or b.submitted_by = u.submitted_by)),
           'in', case when b.period <> 'total' then extract(epoch from case when b.since = p.since then p.ends else moment end - moment) end,
           'usd_left', case when b.usd is not null then greatest(0, b.usd - case when b.since = p.since then b.spent_usd else 0 end) end,
           'runs', b.runs is not null) order by b.name),
         fold or bool_or(b.since is null or b.paused_until is not null and b.since <> p.since)
    into listed, fold
    from public.agent_budgets b
   cross join lateral public.turbo_budget_period(b.period::text, b.timezone::text, moment::timestamptz) p;
  return jsonb_build_object('fold', fold, 'budgets', listed);
end $$;

-- Adds what runs used to the budgets it belongs to, each row of agent_usage once (counted), and closes the budgets that are spent. Called
-- by a worker after a finish that wrote usage, when a budget was written, when a period ends, and when a poll finds something to fold.
-- One fold at a time: it waits for another one, up to lock_timeout (55P03: try again). A reader, a result and a person's edit wait for
-- none. What one fold has counted is committed before the next one looks, so a budget that comes meanwhile misses nothing.
-- A budget that a person has locked is left alone, and with it the runs that it covers: they stay open, for it and for every other budget.
-- A budget that is new, was changed, or whose period is over counts its period anew, from the rows that were counted before; rows from
-- before all periods stay open, for a budget with a longer one.
-- A run is counted whole: all its rows, which one statement has written, are of one fold. at: the present, for tests; null: the clock.
-- Returns what turbo_budgets returns, null without budgets, and "more": usage is left because of the limit, "left": names of locked ones.
create or replace function public.turbo_fold(at timestamptz default null) returns jsonb
language plpgsql security definer set search_path = pg_catalog, pg_temp
  set enable_seqscan = off set plan_cache_mode = force_generic_plan set lock_timeout = '100ms' as $$
declare
  present timestamptz;
  most    constant integer := 2000;
  mine    text[];
  theirs  text[];
  behind  text[];
  first   timestamptz;
  picked  integer;
  news    text[];
  state   jsonb;
begin
  if not exists (select from public.agent_budgets) then return null; end if;
  lock table public.agent_budgets in share update exclusive mode;
  present := coalesce(at, clock_timestamp());
  mine := array(select b.name from public.agent_budgets b order by b.name for no key update skip locked);
  select coalesce(array_agg(b.name) filter (where b.name <> all (mine)), '{}'), min(p.since) into theirs, first
    from public.agent_budgets b
   cross join lateral public.turbo_budget_period(b.period::text, b.timezone::text, present::timestamptz) p;

  with budget as materialized (
    select b.*, p.since as now_since, p.ends, b.since is distinct from p.since as anew
      from public.agent_budgets b
     cross join lateral public.turbo_budget_period(b.period::text, b.timezone::text, present::timestamptz) p
     where b.name = any (mine)
  ), run as materialized (
    select u.task_id, u.fencing_token
      from public.agent_usage u
     where not u.counted and u.at >= first
       and (theirs = '{}'
            or not exists (select from public.agent_usage s
                             join public.agent_budgets b on b.name = any (theirs)
                            where s.task_id = u.task_id and s.fencing_token = u.fencing_token
                              and (b.account is null or b.account = s.account) and (b.queue is null or b.queue = s.queue)
                              and (b.task_type is null or b.task_type = s.task_type)
                              and (b.submitted_by is null or b.submitted_by = s.submitted_by)))
     order by u.at
     limit most
  ), open as materialized (
    select u.*
      from (select distinct r.task_id, r.fencing_token from run r) r
     cross join lateral (select s.*, s.ctid as place from public.agent_usage s
                          where s.task_id = r.task_id and s.fencing_token = r.fencing_token and not s.counted
                            for no key update skip locked) u
  ), counted as (
    update public.agent_usage u set counted = true where u.ctid = any (array(select o.place from open o))
  ), added as materialized (
    select b.name, coalesce(sum(o.cost_usd), 0) as usd, coalesce(sum(o.input_tokens + o.output_tokens + o.cache_write_tokens), 0) as tokens,
           count(distinct (o.task_id, o.fencing_token, o.executor)) filter (where o.task_id is not null) as runs
      from budget b
      left join open o on o.at >= b.now_since and (b.account is null or b.account = o.account) and (b.queue is null or b.queue = o.queue)
                      and (b.task_type is null or b.task_type = o.task_type)
                      and (b.submitted_by is null or b.submitted_by = o.submitted_by)
     group by b.name
  ), before as materialized (
    select b.name, case when b.anew then w.usd else b.spent_usd end as usd, case when b.anew then w.tokens else b.spent_tokens end as tokens,
           case when b.anew then w.runs else b.spent_runs end as runs
      from budget b
     cross join lateral (select coalesce(sum(u.cost_usd), 0) as usd,
                                coalesce(sum(u.input_tokens + u.output_tokens + u.cache_write_tokens), 0) as tokens,
                                count(distinct (u.task_id, u.fencing_token, u.executor)) as runs
                           from public.agent_usage u
                          where b.anew and u.counted and u.at >= b.now_since
                            and (b.account is null or b.account = u.account) and (b.queue is null or b.queue = u.queue)
                            and (b.task_type is null or b.task_type = u.task_type)
                            and (b.submitted_by is null or b.submitted_by = u.submitted_by)) w
  ), total as materialized (
    select b.*, f.usd + a.usd as all_usd, least(f.tokens + a.tokens, 9223372036854775807)::bigint as all_tokens, f.runs + a.runs as all_runs
      from budget b join added a on a.name = b.name join before f on f.name = b.name
  ), judged as materialized (
    select t.*,
           coalesce(t.all_usd >= t.usd, false) or coalesce(t.all_tokens >= t.tokens, false) or coalesce(t.all_runs >= t.runs, false) as over,
           coalesce(t.all_usd >= t.usd * t.warn_at::numeric, false) or coalesce(t.all_tokens >= t.tokens * t.warn_at::numeric, false)
             or coalesce(t.all_runs >= t.runs * t.warn_at::numeric, false) as near
      from total t
  ), written as (
    update public.agent_budgets b
       set since = j.now_since, spent_usd = j.all_usd, spent_tokens = j.all_tokens, spent_runs = j.all_runs,
           warned = j.near, paused_until = case when j.over then j.ends end
      from judged j
     where b.name = j.name
       and (b.since, b.spent_usd, b.spent_tokens, b.spent_runs, b.warned, b.paused_until)
           is distinct from (j.now_since, j.all_usd, j.all_tokens, j.all_runs, j.near, case when j.over then j.ends end)
  ), event as (
    insert into public.agent_events (event, about, detail)
    select case when j.over then 'budget_spent' else 'budget_warned' end, j.name,
           jsonb_strip_nulls(jsonb_build_object(
             'period', j.period, 'since', j.now_since, 'usd', j.usd, 'spent_usd', j.all_usd, 'tokens', j.tokens, 'spent_tokens', j.all_tokens,
             'runs', j.runs, 'spent_runs', j.all_runs, 'account', j.account, 'queue', j.queue, 'task_type', j.task_type,
             'submitted_by', j.submitted_by, 'paused_until', case when j.over then j.ends end))
      from judged j
     where j.over and (j.paused_until is null or j.anew) or j.near and not j.over and (not j.warned or j.anew)
     order by j.name
  )
  select (select count(*) from run),
         array(select j.name from judged j
                where j.over is distinct from (j.paused_until is not null) or j.since is null
                   or j.over and j.paused_until is distinct from j.ends order by j.name)
    into picked, news;

  -- What a locked budget covers, and what is beyond the limit.
  behind := array(
    select b.name
      from public.agent_budgets b
     cross join lateral public.turbo_budget_period(b.period::text, b.timezone::text, present::timestamptz) p
     where (picked >= most or theirs <> '{}')
       and exists (select from public.agent_usage u
                    where not u.counted and u.at >= p.since
                      and (b.account is null or b.account = u.account) and (b.queue is null or b.queue = u.queue)
                      and (b.task_type is null or b.task_type = u.task_type)
                      and (b.submitted_by is null or b.submitted_by = u.submitted_by)));
  if news <> '{}' and current_setting('turbo.notify', true) is distinct from 'off' and pg_notification_queue_usage() <= 0.5 then
    perform pg_notify('turbo_ctl', 'budgets');
  end if;
  state := public.turbo_budgets(present::timestamptz, '0'::interval, behind::text[]);
  return state || jsonb_build_object('more', picked >= most, 'left', to_jsonb(theirs));
end $$;

-- Whether a task is of those that a spent budget keeps from being claimed by who submitted them. spent: [{"by", "types", "open"}]: all
-- types but those in open, or those in types; all, where both are null. Only called by a claim beside such budgets.
create or replace function public.turbo_is_spent(submitter text, task_type text, spent jsonb) returns boolean
language sql immutable set search_path = pg_catalog, pg_temp as $$
  select exists (select from jsonb_array_elements(spent) s
                  where s ->> 'by' = submitter
                    and not coalesce(s -> 'open' ? coalesce(task_type, 'default'), false)
                    and coalesce(s -> 'types' ? coalesce(task_type, 'default'), true))
$$;

-- A schedule that cannot fire, whose task was refused, or that has paused itself. Said once, until the reason changes.
create or replace function public.turbo_schedule_failed() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  insert into public.agent_events (event, about, detail)
  values ('schedule_failed', new.name, jsonb_build_object('error', new.error, 'failures', new.failures, 'enabled', new.enabled));
  return null;
end $$;
create or replace trigger turbo_schedule_failed after update on public.agent_schedules for each row
  when (new.rev = old.rev + 1 and new.error is not null and new.error is distinct from old.error)
  execute function public.turbo_schedule_failed();

revoke all on function
  public.turbo_budget_period(text, text, timestamptz), public.turbo_judge_budget(), public.turbo_budget_gone(),
  public.turbo_budgets(timestamptz, interval, text[]), public.turbo_fold(timestamptz),
  public.turbo_is_spent(text, text, jsonb), public.turbo_schedule_failed()
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
    execute format('grant select on public.agent_budgets to %1$s;
                    grant execute on function public.turbo_fold(timestamptz), public.turbo_budgets(timestamptz, interval, text[]),
                      public.turbo_is_spent(text, text, jsonb) to %1$s',
                   case worker.grantee when 'PUBLIC' then 'public' else quote_ident(worker.grantee) end);
    if has_table_privilege(case worker.grantee when 'PUBLIC' then 'public' else worker.grantee end::name, 'public.agent_tasks', 'DELETE') then
      execute format('grant select (at, ctid), delete on public.agent_events to %1$s',      -- retention's
                     case worker.grantee when 'PUBLIC' then 'public' else quote_ident(worker.grantee) end);
    end if;
  end loop;
end $$;
