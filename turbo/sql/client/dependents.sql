-- Client.dependents: how many tasks hang on these, at any depth, and would not run without them: of those that wait, and of those
-- that were cancelled because of them. A task of mode 'run' does not hang on its need, nor a follow-up on a task that ran.
-- Walks downwards by agent_dependencies_needs, a look-up a task; stops behind `most` tasks.
with recursive below as (
  select i.task_id::public.turbo_task_id as task_id, true as given, false as blocked
    from (select distinct unnest(%(task_id)s::text[]) as task_id) i
  union
  select n.task_id, false, n.blocked
    from below b
   cross join lateral (
     -- looked up one by one: joined, all blocked tasks of the table would be read
     select d.task_id, t.status = 'blocked' as blocked
       from public.agent_dependencies d
      cross join lateral (select t.status::text as status, t.failure_kind from public.agent_tasks t where t.task_id = d.task_id limit 1) t
      where d.needs = b.task_id and d.gone is null
        and (t.status = 'blocked' or t.status = 'cancelled' and t.failure_kind = 'needs')
        and (d.mode <> 'run'
             or (select c.after from public.agent_conversations c where c.task_id = d.task_id) = d.needs
                and (select o.fencing_token from public.agent_tasks o where o.task_id = d.needs) is null)
   ) n
), counted as (
  select distinct on (b.task_id) b.task_id, b.given, b.blocked
    from (select * from below limit %(most)s::bigint + cardinality(%(task_id)s::text[])) b
   order by b.task_id, b.given desc
)
select count(*) filter (where c.blocked)::int as blocked, count(*) filter (where not c.blocked)::int as cancelled
  from counted c
 where not c.given
