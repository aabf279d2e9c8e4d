-- Client.subscriptions.add: the same insert that a person may type; the trigger of agent_subscriptions judges it, and wakes the workers.
-- Returns one row if it was inserted, or changed: only with `replace`, and only if something differs. Whether it is paused stays.
insert into public.agent_subscriptions as s (name, events, queue, task_type, target)
values (%(name)s::text, %(events)s::text[], %(queue)s::text, %(task_type)s::text, %(target)s::text)
on conflict (name) do update
   set events = excluded.events, queue = excluded.queue, task_type = excluded.task_type, target = excluded.target
 where %(replace)s::bool
   and (s.events, s.queue, s.task_type, s.target) is distinct from (excluded.events, excluded.queue, excluded.task_type, excluded.target)
returning s.name
