-- Claims up to n tasks of one queue in one round trip. Called by the claimer, one at a time per worker. READ COMMITTED.
-- Costs the same on an empty table, with 1 M pending rows and with 1 M finished ones: the partial index agent_tasks_claim
-- is read in claim order, and only as far as the limit.
-- 23505 on agent_tasks_one_running_per_place or agent_tasks_one_running_per_conversation means that another session claimed the
-- same key or conversation after this snapshot: claim again at once. NOT EXISTS makes that rare; the index makes it impossible
-- to run both. A follow-up without a place in its conversation is not claimed, whatever its status: it would run beside it.
-- The rows come in no order (a sort node costs every claim 25 µs): the caller sorts.
-- Always returns at least one row; task_id is null when nothing was claimed. idle_now is the new idle flag, or null if it
-- did not change; the notify gate reads that flag, so this statement sets it. more: the task brings more than its
-- text, which tasks/more.sql fetches.
-- place: this worker's host, its labels, and how long it leaves tasks to another host (turbo_may_run).
-- spent: what spent budgets close of some submitters (turbo_is_spent). Only sent where there is such a budget: it costs a claim 1 %.
-- limits: only sent where the worker knows of limits (agent_limits). A key with a limit has places, and a claim takes as many of its tasks
-- as there are places. Without it, one task of a key runs at a time, whatever its limit: too few perhaps, never too many.
-- past: only rows in `ranges`, behind the head of the queue that this worker may take nothing of (turbo.db.bypass). keys: what rows of
-- that head wait for; where one of these is free, its first row is taken as well, in claim order.
-- survey: the head itself. For each priority, up to which moment the claim would take no row now, how many rows that are, and the keys
-- among them that are in use. claimable: a row was met that it would take. A lock, a key that another claim is taking, a paused queue do
-- not count: they pass. At most `most` rows are read, in claim order. Of the rows with the moment of the last one read, none is passed.
with
--if keys: freed as materialized (
--if keys:   select array(select k from unnest(%(keys)s::text[]) k
--if keys:                 where ((select true from public.agent_tasks r where r.status = 'running' and r.concurrency_key = k limit 1) is null
                         --if limits: --if keys: or k = any ((select public.turbo_keys_with_room())::text[])
--if keys:                       )
--if keys:                   and (select true from public.agent_tasks r
--if keys:                         where r.status = 'pending' and r.concurrency_key = k and r.queue = %(queue)s limit 1)) as keys),
candidates as materialized (
  --if past: select c.* from
  --if keys:   freed f cross join
  --if past:   jsonb_to_recordset(%(ranges)s::jsonb) s(low bigint, high bigint, since timestamptz, until timestamptz, passed bool)
  --if past:   cross join lateral (
  select t.task_id, t.concurrency_key, t.conversation, t.task_priority, t.run_after
    from
         --if survey: (select t.* from
         public.agent_tasks t
         --if survey:  where t.status = 'pending' and t.queue = %(queue)s
         --if survey:  order by t.task_priority desc nulls last, t.run_after limit %(most)s) t
   where t.status
         --if only: || ''
         = 'pending'
     and t.queue = %(queue)s
     --if past: and t.task_priority between s.low and s.high and t.run_after between s.since and s.until
     --if keys: and (not s.passed or t.concurrency_key = any (f.keys))
     -- guards against rows that bypassed the triggers. A row from the future became pending by a clock that was ahead, before a
     -- failover or a step back: it is due
     and (t.run_after <= statement_timestamp() + interval '1 second' or t.created_at > statement_timestamp() + interval '1 second')
     and (%(only_types)s::text[] is null or t.task_type = any (%(only_types)s::text[]))
     and (%(skip_types)s::text[] is null or t.task_type <> all (%(skip_types)s::text[]))
     --if spent: and not public.turbo_is_spent(t.submitted_by::text, t.task_type::text, %(spent)s::text::jsonb)
     -- It requires labels, or its conversation is on another host. A call that is not reached: the conditions would cost every claim 3 %
     and (t.requires is null and t.prefer_host is null
          or public.turbo_may_run(t.task_id::public.turbo_task_id, t.requires::jsonb, t.prefer_host::text, t.agent_session_id::text,
                                  t.run_after::timestamptz, %(place)s::text))
     and (t.concurrency_key is null
          or (not exists (select from public.agent_tasks r
                           where r.status = 'running' and r.concurrency_key = t.concurrency_key)
              --if limits: or t.concurrency_key = any ((select public.turbo_keys_with_room())::text[])
             )
             --if survey: or false
             -- skip a key that another claim is taking: two batches that met the same keys in different orders would wait
             -- for each other's index entries, a deadlock. This guards nothing else. Only workers may hold what it locks
             and public.turbo_take_key(t.concurrency_key::text))
     and case when t.conversation is null then t.continues is null       -- it has no place yet (settle/place.sql)
              --if survey: when true then not exists (select from public.agent_tasks r where r.status = 'running' and r.conversation = t.conversation)
              else public.turbo_take_conversation(t.conversation::bigint) end
--end survey: order by t.task_priority desc nulls last, t.run_after limit 1
--| ), edge as materialized (
--|   select e.* from (select c.task_priority, c.run_after, true as claimable from candidates c
--|                    union all
--|                    (select t.task_priority, t.run_after, false from public.agent_tasks t
--|                      where t.status = 'pending' and t.queue = %(queue)s
--|                      order by t.task_priority desc nulls last, t.run_after offset %(most)s - 1 limit 1)) e limit 1
--| ), passed as materialized (
--|   select t.task_priority, t.run_after, t.concurrency_key from public.agent_tasks t
--|    where t.status = 'pending' and t.queue = %(queue)s and t.run_after <= statement_timestamp() - %(young)s::interval
--|      and t.task_priority > coalesce((select e.task_priority from edge e), -9223372036854775808)::bigint
--|   union all
--|   select t.task_priority, t.run_after, t.concurrency_key from public.agent_tasks t
--|    where t.status = 'pending' and t.queue = %(queue)s and t.run_after <= statement_timestamp() - %(young)s::interval
--|      and t.task_priority = (select e.task_priority from edge e) and t.run_after < (select e.run_after from edge e)
--| ) select p.task_priority, p.until::text, (p.until + interval '1 microsecond')::text as since, p.rows,
--|          coalesce((select e.claimable from edge e), false) as claimable,
--|          array(select k.key from (select distinct p.concurrency_key::text as key from passed p) k
--|                 where (select true from public.agent_tasks r where r.status = 'running' and r.concurrency_key = k.key limit 1)
--|                 limit %(most_keys)s) as keys
--|     from (values (1)) one
--|     left join (select p.task_priority, max(p.run_after) as until, count(*) as rows from passed p
--|                 group by p.task_priority order by p.task_priority desc limit %(most_priorities)s) p on true
     and not exists (select from public.agent_queues p where p.queue = %(queue)s and p.paused)
     -- a worker marked dead must not claim: its tasks would be rescued while it runs them
     and (select w.state from public.agent_workers w where w.worker_id = %(worker)s) = 'up'
     -- Around a refused row (turbo.db.row_by_row). Of a few tasks the claim's index is no way to any: with || it is not used.
     --if aside: and t.task_id <> all (%(aside)s::text[]::public.turbo_task_id[])
     --if only: and t.task_id = any (%(only)s::text[]::public.turbo_task_id[])
   order by t.task_priority desc nulls last, t.run_after
   limit
         --if keys: least(case when s.passed then cardinality(f.keys) end,
         %(n)s
         --if keys: )
   for update of t skip locked
   --if past: ) c
   --if keys:   where not s.passed or f.keys <> '{}'
   --if past:   limit %(n)s
--end which: ) select c.task_id::text, (select t.fencing_token from public.agent_tasks t where t.task_id = c.task_id)
--|              from candidates c order by c.task_priority desc nulls last, c.run_after
), first_of_key as (
  -- the first candidate of each key, and of each conversation, in claim order; the subquery runs only for rows that have one
  -- (a window function costs every claim 30 µs)
  select c.task_id
         --if limits: , c.concurrency_key, c.task_priority, c.run_after
    from candidates c
   where c.concurrency_key is null and c.conversation is null
      or not exists (select from candidates b
                      where (b.concurrency_key = c.concurrency_key
                             --if limits: and false     -- by places, below
                             or b.conversation = c.conversation)
                        and (coalesce(b.task_priority, -2147483649), c.run_after, c.task_id)
                          > (coalesce(c.task_priority, -2147483649), b.run_after, b.task_id))
--if limits: ), placed as materialized (
--if limits:   select p.task_id, p.place
--if limits:     from (select true where exists (select from first_of_key f where f.concurrency_key is not null)) keyed
--if limits:    cross join lateral public.turbo_places(
--if limits:            array(select f.task_id from first_of_key f where f.concurrency_key is not null
--if limits:                   order by f.task_priority desc nulls last, f.run_after, f.task_id)::public.turbo_task_id[],
--if limits:            array(select f.concurrency_key::text from first_of_key f where f.concurrency_key is not null
--if limits:                   order by f.task_priority desc nulls last, f.run_after, f.task_id)::text[]) p
), claimed as (
  update public.agent_tasks t
     set status = 'running', assigned_worker_id = %(worker)s, started_at = clock_timestamp(), completed_at = null,
         -- grows per row even if a failover rewound the sequence, and never repeats: sequence bits, then random bits
         -- A worker that lies may have written any number: the bounds keep every sum, and the token's sign.
         fencing_token = greatest(nextval('public.turbo_fence_seq'),
                           least(abs(greatest(coalesce(t.fencing_token, 0), -9223372036854775807)) >> 20, 8796093022206) + 1) << 20
                         | floor(random() * 1048576)::bigint,
         key_slot = coalesce(
                      --if limits: (select nullif(p.place, 0::smallint) from placed p where p.task_id = t.task_id),
                      null::smallint),
         cancel_requested_at = null, cancel_to = null, turbo_rev = t.turbo_rev + 1
   -- The rows are locked, so they are still pending. An array, not a join: it stays a look-up by primary key even if the
   -- plan was made for an empty table and is still used with a million rows.
   where t.task_id = any (array(select o.task_id from first_of_key o
                                --if limits: where o.concurrency_key is null or exists (select from placed p where p.task_id = o.task_id)
                               ))
  returning t.task_id, t.task_type, t.task_description, t.input_data, t.task_priority, t.timeout_seconds, t.retry_count,
            t.max_retries, t.infra_count, t.fencing_token, t.concurrency_key, t.agent_session_id,
            t.question is not null or t.needs is not null or t.continues is not null as more,
            case when isfinite(t.run_after) then extract(epoch from clock_timestamp() - t.run_after)::float8 else 0 end as waited_seconds
), audit as (
  insert into public.agent_actions (task_id, action_type, success, actor, from_status, to_status, fencing_token, detail)
  select c.task_id, 'claimed', true, %(worker)s, 'pending', 'running', c.fencing_token,
         jsonb_build_object('waited_seconds', round(c.waited_seconds::numeric, 6), 'attempt', greatest(c.retry_count, 0)::bigint + 1)
    from claimed c
), flag as (
  update public.agent_workers w
     set idle = s.short and %(may_idle)s
    from (select count(*) < %(n)s as short from claimed) s
   where w.worker_id = %(worker)s and w.state = 'up' and w.idle is distinct from (s.short and %(may_idle)s)
  returning w.idle
)
-- characters: one more than the worker takes, so that it sees what is too long without receiving all of it.
select c.task_id::text, coalesce(c.task_type, 'default') as task_type, left(c.task_description, %(characters)s) as task_description,
       left(c.input_data::text, %(characters)s) as input_data,
       c.task_priority, c.timeout_seconds, greatest(c.retry_count, 0) as retry_count, c.max_retries, c.infra_count,
       c.fencing_token, left(c.concurrency_key::text, 501) as concurrency_key, c.agent_session_id, c.waited_seconds, c.more,
       (select f.idle from flag f) as idle_now
       --if past: , (select true from public.agent_tasks t where t.status = 'pending' and t.queue = %(queue)s and t.task_priority is null limit 1) as unranked
  -- losing a claim costs nothing (the task is claimed again), so the commit does not wait for the disk
  from (select set_config('synchronous_commit', 'off', true)) s
  left join claimed c on true
