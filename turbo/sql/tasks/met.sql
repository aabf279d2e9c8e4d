-- Forgets the requirements of tasks that are over, or that were never inserted after all. Called by the leader every few minutes, a
-- portion at a time: with `after` from null until `last` is null. A requirement that somebody has locked, or has written since this
-- statement began, is left for the next time: deleted by its place, it is not followed to a newer version.
with looked as materialized (
  select r.task_id, r.ctid as at
    from public.agent_requirements r
   where %(after)s::text is null or r.task_id > %(after)s::text::public.turbo_task_id
   order by r.task_id
   limit %(most)s
), over as materialized (
  select l.at from looked l
   where (select t.status::text in ('completed', 'failed', 'cancelled') from public.agent_tasks t where t.task_id = l.task_id) is not false
), locked as materialized (
  select r.ctid as at from public.agent_requirements r where r.ctid = any (array(select o.at from over o)) for update skip locked
), forgotten as (
  delete from public.agent_requirements r where r.ctid = any (array(select l.at from locked l)) returning 1
)
select (select count(*) from forgotten) as forgotten,
       case when (select count(*) from looked) = %(most)s then (select l.task_id::text from looked l order by l.task_id desc limit 1) end as last
