-- Client.graph: all tasks that hang together with one task, by what they need and by their conversations, the nearest first; and
-- the edges between them. A row with `kind` 'task' is a task: its status is null if its row is gone. One with 'edge': task_id waits
-- for `needs`, or waited (settled); mode as in agent_dependencies; `continues`: it is the task before it in their conversation.
-- At most `tasks` + 1 tasks and `edges` + 1 edges; null: all. A recursive query gives its rows as they are asked for, so nothing is
-- walked behind that limit. Each step is a look-up by an index: a task with n neighbours costs n.
-- What is noted and not tied yet is there, too: of the first 1,000 notes.
with recursive noted as materialized (
  select n.task_id, d.needs::public.turbo_task_id as needs
    from (select distinct u.task_id from (select u.task_id from public.agent_unsettled u order by u.note_id limit 1000) u) n
   cross join lateral (select t.status::text as status, t.needs, t.continues from public.agent_tasks t where t.task_id = n.task_id limit 1) t
   cross join lateral (select unnest(t.needs) as needs union select t.continues) d
   where d.needs is not null and t.status in ('blocked', 'pending', 'scheduled', 'waiting')
   limit 2000
), reached as (
  select t.task_id::public.turbo_task_id as task_id from public.agent_tasks t where t.task_id = %(task_id)s::text::public.turbo_task_id
  union
  select n.task_id
    from reached r
   cross join lateral (
     (select d.needs as task_id from public.agent_dependencies d where d.task_id = r.task_id order by d.needs)
     union all
     (select d.task_id from public.agent_dependencies d where d.needs = r.task_id and d.gone is null order by d.task_id)
     union all
     (select b.task_id                                                   -- the one before it, and the one after it
        from public.agent_conversations c
        join public.agent_conversations b on b.conversation = c.conversation and b.place < c.place
       where c.task_id = r.task_id order by b.place desc limit 1)
     union all
     (select a.task_id
        from public.agent_conversations c
        join public.agent_conversations a on a.conversation = c.conversation and a.place > c.place
       where c.task_id = r.task_id order by a.place limit 1)
     union all
     select o.needs from noted o where o.task_id = r.task_id
     union all
     select o.task_id from noted o where o.needs = r.task_id
   ) n
), tasks as materialized (
  select r.task_id, row_number() over () as n from (select r.task_id from reached r limit %(tasks)s::bigint + 1) r
), edges as materialized (
  select t.task_id, e.needs, e.mode, e.settled, e.continues
    from tasks t
   cross join lateral (
     select d.needs, d.mode, d.settled, coalesce(c.after = d.needs, false) as continues
       from public.agent_dependencies d
       left join public.agent_conversations c on c.task_id = d.task_id
      where d.task_id = t.task_id
     union all
     select c.after, 'run', (select w.status::text <> 'blocked' from public.agent_tasks w where w.task_id = c.task_id), true
       from public.agent_conversations c                                  -- not tied: set to pending by hand, or held
      where c.task_id = t.task_id and c.after is not null
        and (select true from public.agent_dependencies d where d.task_id = c.task_id and d.needs = c.after) is null
     union all
     select o.needs, coalesce(w.on_needs_failed, 'cancel'), false, o.needs::text = w.continues and not o.needs::text = any (coalesce(w.needs, '{}'))
       from noted o
      cross join lateral (select w.on_needs_failed, w.continues, w.needs from public.agent_tasks w where w.task_id = o.task_id limit 1) w
      where o.task_id = t.task_id
        and (select true from public.agent_dependencies d where d.task_id = o.task_id and d.needs = o.needs) is null
        and (select true from public.agent_conversations c where c.task_id = o.task_id and c.after = o.needs) is null
   ) e
  limit %(edges)s::bigint + 1
)
select 'task' as kind, n.task_id::text as task_id, t.status::text as status, t.queue, left(t.task_type, 1000) as task_type,
       left(t.task_description, 200) as task_description, left(t.failure_kind, 100) as failure_kind,
       left(t.assigned_worker_id, 255) as assigned_worker_id, null::text as needs, null::text as mode, null::boolean as settled,
       null::boolean as continues, n.n
  from tasks n
  left join lateral (select t.status, t.queue, t.task_type, t.task_description, t.failure_kind, t.assigned_worker_id
                       from public.agent_tasks t where t.task_id = n.task_id limit 1) t on true
union all
select 'edge', e.task_id::text, null, null, null, null, null, null, e.needs::text, e.mode, e.settled, e.continues, null from edges e
 order by n nulls last
