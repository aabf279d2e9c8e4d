-- turbo: compatible-from 3
-- Subscriptions: who is told what happened. A row names events, and a target that workers have in their worker.yaml (notify). One worker
-- at a time holds a subscription, reads what is new in agent_actions and agent_events, and delivers it (turbo/events/courier.py).
-- Ids commit out of order. So a position is the highest id that was seen, and the gaps below it: ids that nobody could see then. What
-- appears in a gap is new. A gap is forgotten once every transaction that may hold its ids has ended.

-- A table of this name that is there already is the deployment's own, and means something else: nothing is changed then.
do $$
begin
  if to_regclass('public.agent_subscriptions') is not null
     and coalesce(obj_description(to_regclass('public.agent_subscriptions'), 'pg_class'), '') not like '%(turbo)' then
    raise exception 'there is a table agent_subscriptions already, and turbo needs one of this name for itself'
      using errcode = 'duplicate_table',
      hint = 'Rename it (ALTER TABLE public.agent_subscriptions RENAME TO ...) and run turbo migrate again.';
  end if;
end $$;

create table if not exists public.agent_subscriptions (
  name          text primary key,
  events        text[] not null,
  -- of events that belong to a task: which tasks; null: any
  queue         text,
  task_type     text,
  target        text not null,
  enabled       boolean not null default true,
  created_by    text not null default session_user,
  created_at    timestamptz not null default now(),
  updated_at    timestamptz not null default now(),
  -- turbo's own
  position      jsonb,
  looked_at     timestamptz check (looked_at between '1970-01-01 00:00+00' and '9000-01-01 00:00+00'),
  waiting_since timestamptz check (waiting_since between '1970-01-01 00:00+00' and '9000-01-01 00:00+00'),
  holder        text,
  held_until    timestamptz check (held_until between '1970-01-01 00:00+00' and '9000-01-01 00:00+00'),
  delivered     bigint not null default 0,
  delivered_at  timestamptz check (delivered_at between '1970-01-01 00:00+00' and '9000-01-01 00:00+00'),
  failures      integer not null default 0,
  error         text,
  next_at       timestamptz check (next_at between '1970-01-01 00:00+00' and '9000-01-01 00:00+00')
) with (fillfactor = 50, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_scale_factor = 0.02);
comment on table public.agent_subscriptions is
  'who is told what happened: INSERT INTO agent_subscriptions (name, events, target) VALUES (''phone'', ''{asked,failed}'', ''ntfy'') (turbo)';
comment on column public.agent_subscriptions.events is
  'asked, reminded, completed, failed, cancelled; account_paused, account_resumed, budget_warned, budget_spent, schedule_failed, worker_died';
comment on column public.agent_subscriptions.target is 'a name under notify in the worker.yaml of some workers';
comment on column public.agent_subscriptions.enabled is 'false: nothing is delivered; what happens meanwhile waits';
comment on column public.agent_subscriptions.position is 'up to where it was read: the highest ids, the gaps below them, and what is still to be delivered';
comment on column public.agent_subscriptions.looked_at is 'when it was last written down how far it was read';
comment on column public.agent_subscriptions.waiting_since is 'when the oldest event happened that is not delivered yet; null: none waits';
comment on column public.agent_subscriptions.holder is 'the worker that delivers it';
comment on column public.agent_subscriptions.held_until is 'another worker may take it then';
comment on column public.agent_subscriptions.delivered is 'events that the target has taken; one that was delivered twice counts twice';
comment on column public.agent_subscriptions.failures is 'deliveries that failed since the last one that succeeded';
comment on column public.agent_subscriptions.error is 'why the last of them failed';
comment on column public.agent_subscriptions.next_at is 'no delivery is tried before; null: at once';

-- The ends of the two streams. An adopted trail may have another key than a number that grows, which gives no order: null then.
do $$
begin
  if (select a.atttypid in ('int2'::regtype, 'int4'::regtype, 'int8'::regtype) from pg_attribute a
       where a.attrelid = 'public.agent_actions'::regclass and a.attname = 'action_id' and not a.attisdropped) then
    execute $f$
      create or replace function public.turbo_trail_head() returns bigint
      language sql stable set search_path = pg_catalog, pg_temp as
      'select coalesce(max(a.action_id), 0)::bigint from public.agent_actions a'
    $f$;
    execute $f$
      create or replace function public.turbo_trail_ids(above bigint, upto bigint) returns int8multirange
      language sql stable set search_path = pg_catalog, pg_temp as
      'select coalesce(range_agg(int8range(a.action_id, a.action_id + 1)), ''{}'') from public.agent_actions a
        where a.action_id > above and a.action_id <= upto'
    $f$;
  else
    execute $f$
      create or replace function public.turbo_trail_head() returns bigint
      language sql stable set search_path = pg_catalog, pg_temp as 'select null::bigint'
    $f$;
    execute $f$
      create or replace function public.turbo_trail_ids(above bigint, upto bigint) returns int8multirange
      language sql stable set search_path = pg_catalog, pg_temp as 'select null::int8multirange'
    $f$;
  end if;
end $$;
comment on function public.turbo_trail_head() is 'the highest action_id; null where it is no number';

-- Where a new subscription begins: at the end of both streams, as this transaction sees them. What is under way is in the gaps.
create or replace function public.turbo_position() returns jsonb
language sql stable set search_path = pg_catalog, pg_temp as $$
  select jsonb_strip_nulls(jsonb_build_object(
    'actions', (select jsonb_build_object('seen', h.head, 'gaps',
                         (int8multirange(int8range(greatest(h.head - 10000, 0) + 1, h.head + 1))
                          - public.turbo_trail_ids(greatest(h.head - 10000, 0)::bigint, h.head::bigint))::text)
                  from (select public.turbo_trail_head() as head) h where h.head is not null),
    'events', (select jsonb_build_object('seen', h.head, 'gaps',
                        (int8multirange(int8range(greatest(h.head - 10000, 0) + 1, h.head + 1))
                         - coalesce((select range_agg(int8range(e.event_id, e.event_id + 1)) from public.agent_events e
                                      where e.event_id > greatest(h.head - 10000, 0) and e.event_id <= h.head), '{}'))::text)
                 from (select coalesce(max(e.event_id), 0) as head from public.agent_events e) h)))
$$;

-- What is written by hand, judged. A subscription begins with what happens after it was written. A change starts nothing anew: what is
-- still to be delivered goes to the new target, if it is still wanted.
-- A restore brings rows back as they were: it is the owner's COPY, or has turbo.restore on, and its rows are older than its transaction.
create or replace function public.turbo_judge_subscription() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  by_whom name := case current_setting('role') when 'none' then session_user else current_setting('role')::name end;
  shown   text := public.turbo_shown(left(new.name, 200)::text, 200::integer);
  tasks   constant text[] := '{asked,reminded,completed,failed,cancelled}';
  others  constant text[] := '{account_paused,account_resumed,budget_warned,budget_spent,schedule_failed,worker_died}';
  wrong   text;
  counter record;
begin
  if tg_op = 'INSERT' then
    if new.created_at < transaction_timestamp() and new.created_by is not null
       and (current_query() ~* '^[[:space:]]*copy[[:space:]]' or coalesce(current_setting('turbo.restore', true), '') = 'on')
       and (select pg_has_role(by_whom, c.relowner, 'usage') from pg_class c where c.oid = tg_relid)
    then return new; end if;
    new.created_by := session_user; new.created_at := now();
    new.position := null; new.looked_at := now(); new.waiting_since := null; new.holder := null; new.held_until := null;
    new.delivered := 0; new.delivered_at := null;
  elsif new.name is distinct from old.name then
    raise exception 'the name of subscription % cannot change', public.turbo_shown(left(old.name, 200)::text, 200::integer)
      using errcode = 'check_violation', hint = 'Insert another subscription, and delete this one.';
  elsif (new.events, new.queue, new.task_type, new.target, new.enabled)
        is not distinct from (old.events, old.queue, old.task_type, old.target, old.enabled) then
    return new;
  end if;

  if new.name is null or new.name !~ '[^[:space:]]' or length(new.name) > 200 or new.name ~ '[[:cntrl:]]' then
    raise exception '%', case when new.name is null or new.name !~ '[^[:space:]]' then 'the name of a subscription is empty'
                              when length(new.name) > 200 then format('the name of a subscription has %s characters, more than 200', length(new.name))
                              else format('the name of subscription %s has a control character', shown) end
      using errcode = 'check_violation', hint = 'Write a short name, as in ''phone''.';
  end if;
  if new.events is null or cardinality(new.events) = 0 then
    raise exception 'subscription % names no event', shown
      using errcode = 'check_violation', hint = format('Write some of %s.', array_to_string(tasks || others, ', '));
  end if;
  select coalesce(e.event, '') into wrong from unnest(new.events) e(event) where e.event is null or e.event <> all (tasks || others) limit 1;
  if wrong is not null then
    raise exception 'subscription % names an unknown event, ''%''', shown, public.turbo_shown(left(wrong, 60)::text, 60::integer)
      using errcode = 'check_violation', hint = format('Write some of %s.', array_to_string(tasks || others, ', '));
  end if;
  new.events := array(select distinct e.event from unnest(new.events) e(event) order by e.event);
  if new.target is null or new.target !~ '[^[:space:]]' or length(new.target) > 200 or new.target ~ '[[:cntrl:]]' then
    raise exception 'target of subscription % is no name', shown
      using errcode = 'check_violation', hint = 'Write a name under notify in the worker.yaml of some workers.';
  end if;
  wrong := case when new.queue = '' then 'queue' when new.task_type = '' then 'task_type' end;
  if wrong is not null then
    raise exception '% of subscription % is empty', wrong, shown using errcode = 'check_violation', hint = 'Leave it out (null) for any.';
  end if;
  if (new.queue is not null or new.task_type is not null) and not new.events && tasks then
    raise exception 'subscription % has a queue or a task_type, and none of its events belongs to a task', shown
      using errcode = 'check_violation', hint = format('Leave both out, or add some of %s.', array_to_string(tasks, ', '));
  end if;
  if new.enabled is null then
    raise exception 'enabled of subscription % is null', shown using errcode = 'check_violation', hint = 'Write true or false.';
  end if;
  if new.events && tasks then
    if public.turbo_trail_head() is null then
      raise exception 'subscription % wants events of tasks, and the key of agent_actions (action_id) is no number that grows', shown
        using errcode = 'feature_not_supported', hint = format('Only these can be delivered here: %s.', array_to_string(others, ', '));
    end if;
    -- A session that keeps numbers for later would use them below what was read long ago.
    select s.seqcache, s.seqincrement, s.seqrelid::regclass as name into counter
      from pg_sequence s where s.seqrelid = pg_get_serial_sequence('public.agent_actions', 'action_id')::regclass;
    if counter.seqcache > 1 or counter.seqincrement < 1 then
      raise exception 'subscription % wants events of tasks, and the numbers of agent_actions do not come in order', shown
        using errcode = 'feature_not_supported', hint = format('ALTER SEQUENCE %s INCREMENT BY 1 CACHE 1, and reconnect every session.', counter.name);
    end if;
  end if;

  new.updated_at := now(); new.failures := 0; new.error := null; new.next_at := null;
  if new.position is null then new.position := public.turbo_position(); end if;
  if current_setting('turbo.notify', true) is distinct from 'off' and pg_notification_queue_usage() <= 0.5 then
    perform pg_notify('turbo_ctl', 'subscriptions');
  end if;
  return new;
end $$;
-- Not for what turbo itself writes: its statements name no column of these.
create or replace trigger turbo_judge_subscription
  before insert or update of name, events, queue, task_type, target, enabled
  on public.agent_subscriptions for each row execute function public.turbo_judge_subscription();

-- From when on rows of both streams are kept for those that have not read or delivered them yet; null: for nobody. A week at most: a dead
-- target keeps nothing for ever.
create or replace function public.turbo_undelivered() returns timestamptz
language sql stable security definer set search_path = pg_catalog, pg_temp as $$
  select case when count(*) > 0 then greatest(min(least(s.waiting_since, s.looked_at)) - interval '1 minute', statement_timestamp() - interval '7 days') end
    from public.agent_subscriptions s
$$;

-- An account that is paused, and its end. Between the two a probe may fail any number of times. A suspicion is no pause.
create or replace function public.turbo_account_event() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  if new.state = 'paused'
     and (tg_op = 'INSERT' or old.state not in ('paused', 'half_open')
          or new.reason = 'manual' and (new.reason, new.unavailable) is distinct from (old.reason, old.unavailable)) then
    insert into public.agent_events (event, about, detail)
    values ('account_paused', new.account, jsonb_strip_nulls(jsonb_build_object(
              'host', new.host, 'why', left(new.why, 500), 'until', case when isfinite(new.until) then new.until end,
              'reason', case when new.reason = 'manual' and new.unavailable then 'credits'
                             else coalesce(new.reason, case when new.unavailable then 'unavailable' end) end)));
  elsif tg_op = 'UPDATE' and new.state = 'open' and old.state in ('paused', 'half_open') then
    insert into public.agent_events (event, about, detail) values ('account_resumed', new.account, jsonb_build_object('host', new.host));
  end if;
  return null;
end $$;
create or replace trigger turbo_account_event after insert or update of state, reason on public.agent_accounts
  for each row when (new.state in ('paused', 'open')) execute function public.turbo_account_event();

-- A worker whose lease has ended, or that its host's next worker found dead. One that stopped in order is no event.
create or replace function public.turbo_worker_event() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  if tg_op = 'INSERT' or old.state is distinct from 'dead' then
    insert into public.agent_events (event, about, detail)
    values ('worker_died', new.worker_id, jsonb_build_object('name', left(new.name, 200), 'host', left(new.host, 200), 'heartbeat_at', new.heartbeat_at));
  end if;
  return null;
end $$;
create or replace trigger turbo_worker_event after insert or update of state on public.agent_workers
  for each row when (new.state = 'dead') execute function public.turbo_worker_event();
comment on table public.agent_events is 'what happened to accounts, budgets, schedules and workers (turbo)';

revoke all on function
  public.turbo_trail_head(), public.turbo_trail_ids(bigint, bigint), public.turbo_position(), public.turbo_judge_subscription(),
  public.turbo_undelivered(), public.turbo_account_event(), public.turbo_worker_event()
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
    execute format('grant select on public.agent_subscriptions, public.agent_events to %1$s;
                    grant update (position, looked_at, waiting_since, holder, held_until, delivered, delivered_at, failures, error, next_at)
                      on public.agent_subscriptions to %1$s;
                    grant execute on function public.turbo_trail_head(), public.turbo_undelivered() to %1$s',
                   case worker.grantee when 'PUBLIC' then 'public' else quote_ident(worker.grantee) end);
  end loop;
end $$;
