-- turbo: compatible-from 3
-- Wake-ups of many inserters, coalesced. Each insert into an idle fleet notifies, and NOTIFY holds a lock of the whole server until its
-- commit, and wakes every session that listens. So where wake-ups of a queue come fast, a worker of it becomes its keeper: for
-- moments at a time the queue is quiet, its inserts notify nobody, and the keeper looks for their rows every few milliseconds and wakes
-- as many workers as there are rows.
--
--   keeper:    mark, commit ──▶ look, look, look … ──▶ remove the mark, commit ──▶ look, until all transactions of then are over
--   inserter:  insert (from here on it has a transaction id) ──▶ is there a mark? then silent ──▶ commit
--
-- Nothing is lost. An inserter that saw the mark had its transaction id before the mark was removed. So for the look after that it is
-- either over, and its row is seen, or among the open transactions, and the looks go on until it is over. An inserter sets no mark, waits
-- for nobody, and leaves nothing behind when it is rolled back. A keeper that dies leaves a mark that lapses within a second at most
-- (usually 0.25 s); rows of that moment wait for the next wake-up of their queue, or the next poll of any worker.
--
-- A worker from before keeps nothing quiet, and is woken as before.

do $$
begin
  if to_regclass('public.turbo_quiet') is not null
     and coalesce(obj_description(to_regclass('public.turbo_quiet'), 'pg_class'), '') not like '%(turbo)' then
    raise exception 'there is a table turbo_quiet already, and turbo needs one of this name for itself'
      using errcode = 'duplicate_table',
      hint = 'Rename it (ALTER TABLE public.turbo_quiet RENAME TO ...) and run turbo migrate again.';
  end if;
end $$;

-- Not logged: after a crash or a failover it is empty, and every insert notifies.
create unlogged table if not exists public.turbo_quiet (
  queue  text primary key,
  until  timestamptz not null,
  keeper text not null                           -- a worker
) with (fillfactor = 10, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
comment on table public.turbo_quiet is 'queues whose inserts notify nobody, until when, and which worker looks for them (turbo)';

-- The gate: null while no queue is quiet. A sequence, as turbo_wait_seq: a lone insert into an idle fleet pays one look into a page.
-- Where it is open and no queue is quiet, because a keeper was killed, inserts look into the table, until another keeper closes it.
create sequence if not exists public.turbo_quiet_seq;
comment on sequence public.turbo_quiet_seq is 'null: no queue is quiet (turbo)';
-- How many wake-ups were not sent: whether it is worth while.
create sequence if not exists public.turbo_unsent_seq;
comment on sequence public.turbo_unsent_seq is 'how many inserts left their wake-up to the keeper of a quiet queue (turbo)';
revoke all on table public.turbo_quiet from public;
revoke all on sequence public.turbo_quiet_seq, public.turbo_unsent_seq from public;

-- For a keeper. `seconds` above 0: keep the queue quiet for so long from now on, at most one second; 0: no more; null: the mark stays
-- as it is. Then it looks, and wakes as many idle workers as tasks wait. `since`: at most eight for each insert that was counted since
-- then, so that tasks which nobody may claim wake few; null: as many as there are, and three more who stand by, as turbo_wake_insert
-- does; -1: none, it does not look. `kept`: the mark is this keeper's. `unsent`: the count so far. `claims`: of all
-- queues so far; while it stays as it is, those who were woken take nothing. ended_below, begun_below: transactions with lower ids have
-- ended; those with ids from there on had not begun, both at the look.
create or replace function public.turbo_keep_quiet(queue text, keeper text, seconds float8, since bigint,
  out kept boolean, out unsent bigint, out claims bigint, out woken bigint, out ended_below bigint, out begun_below bigint)
language plpgsql security definer set search_path = pg_catalog, pg_temp set enable_seqscan = off as $$
declare
  most    bigint;
  lapse   constant timestamptz := clock_timestamp() + make_interval(secs => least(greatest(seconds, 0), 1));
  idle    bigint;
  longest integer;
begin
  kept := false;
  if seconds > 0 then
    -- A mark that lasts for a good while yet is not written again. Nobody waits for another keeper's.
    select q.keeper = turbo_keep_quiet.keeper into kept
      from public.turbo_quiet q
     where q.queue = turbo_keep_quiet.queue
       and q.until > clock_timestamp() + case when q.keeper = turbo_keep_quiet.keeper then (lapse - clock_timestamp()) / 2
                                              else interval '0' end;
    if kept is null then
      insert into public.turbo_quiet as q (queue, until, keeper) values (turbo_keep_quiet.queue, lapse, turbo_keep_quiet.keeper)
      on conflict on constraint turbo_quiet_pkey do update set until = excluded.until, keeper = excluded.keeper
        where q.keeper = excluded.keeper or q.until < clock_timestamp();
      kept := found;
    end if;
    if not kept then return; end if;
    if pg_sequence_last_value('public.turbo_quiet_seq') is null then perform setval('public.turbo_quiet_seq', 1); end if;
  elsif seconds = 0 then
    delete from public.turbo_quiet q where q.queue = turbo_keep_quiet.queue and q.keeper = turbo_keep_quiet.keeper;
    -- Another keeper that is just beginning finds the gate closed at its next look, and opens it: until then inserts notify.
    if not exists (select from public.turbo_quiet q where q.until > clock_timestamp()) then
      perform setval('public.turbo_quiet_seq', 1, false);
    end if;
  end if;
  unsent := coalesce(pg_sequence_last_value('public.turbo_unsent_seq'), 0);
  claims := coalesce(pg_sequence_last_value('public.turbo_fence_seq'), 0);
  woken := 0;
  most := case when since is null then 2147483647 when since >= 0 then 8 * (greatest(unsent - since, 0) + 1) else 0 end;
  if most > 0 and turbo_keep_quiet.queue ~ '^[a-z0-9_-]{1,40}$' then
    select count(*), max(octet_length(w.worker_id)) into idle, longest
      from public.agent_workers w
     where w.idle and turbo_keep_quiet.queue = any (w.queues)
       and w.heartbeat_at > clock_timestamp() - make_interval(secs => w.lease_seconds)
       and not exists (select from public.agent_queues p where p.queue = turbo_keep_quiet.queue and p.paused);
    select pg_snapshot_xmin(s.now)::text::bigint, pg_snapshot_xmax(s.now)::text::bigint,
           (select count(*) from (select from public.agent_tasks t
                                   where t.status = 'pending' and t.queue = turbo_keep_quiet.queue limit least(idle, most)) p)
      into ended_below, begun_below, woken
      from (select pg_current_snapshot() as now) s;
    if woken = 0 or pg_notification_queue_usage() > 0.5 then
      woken := 0;
    elsif idle <= 4 or 2 * woken + 3 > idle or longest > 55 then
      perform pg_notify('turbo_q_' || turbo_keep_quiet.queue, '');
    else
      perform pg_notify('turbo_w_' || c.worker_id, turbo_keep_quiet.queue || ' ' || greatest(c.place - woken, 0))
         from (select t.worker_id, row_number() over (order by t.late, t.turn, random()) as place
                 from (select w.worker_id, l.late, row_number() over (partition by l.late, w.host order by random()) as turn
                         from public.agent_workers w
                        cross join lateral (select w.heartbeat_at < clock_timestamp()
                                                   - make_interval(secs => w.heartbeat_seconds * 1.5) as late) l
                        where w.idle and turbo_keep_quiet.queue = any (w.queues)
                          and w.heartbeat_at > clock_timestamp() - make_interval(secs => w.lease_seconds)) t
                order by 2
                limit woken + case when since is null then 3 else 0 end) c;
    end if;
  end if;
end $$;
revoke all on function public.turbo_keep_quiet(text, text, float8, bigint) from public;

-- turbo: next
-- The insert trigger leaves the wake-up to the keeper: for a few ordinary rows of quiet queues. A scheduled row sets timers, and one with
-- labels wakes all. Each part must be found exactly once (0022_placement.sql).
do $$
declare
  change   record;
  text_now text;
begin
  for change in
    select * from (values
      (1, 'turbo_wake_insert', '-- how many of them these rows can occupy', '-- how many of them these rows can occupy
  silent boolean; -- they are left to the keeper of a quiet queue'),
      -- One condition for both, and no more in it: each function that it names costs a lone insert 0.2 %.
      (2, 'turbo_wake_insert', $a$  if current_setting('turbo.notify', true) = 'off' then return null; end if;
  for fleet in$a$, $b$  if current_setting('turbo.notify', true) = 'off'
     or pg_sequence_last_value('public.turbo_quiet_seq') is not null then
    if current_setting('turbo.notify', true) = 'off' then return null; end if;
    select count(*) <= 8
           and bool_and(s.status = 'pending' and s.requires is null
                        and exists (select from public.turbo_quiet q where q.queue = s.queue and q.until > clock_timestamp()))
      into silent
      from (select n.status, n.requires, n.queue from new_rows n limit 9) s;
    if silent then
      perform nextval('public.turbo_unsent_seq');
      return null;
    end if;
  end if;
  for fleet in$b$)
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
    select distinct case p.grantee when 'PUBLIC' then 'public' else quote_ident(p.grantee) end as name
      from information_schema.column_privileges p
     where p.table_schema = 'public' and p.table_name = 'agent_tasks' and p.column_name = 'fencing_token'
       and p.privilege_type = 'UPDATE'
  loop
    execute format('grant execute on function public.turbo_keep_quiet(text, text, float8, bigint) to %s', worker.name);
  end loop;
end $$;
