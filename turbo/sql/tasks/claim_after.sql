-- Pending rows of one queue that came after a position, oldest first, a hundred at most. Changes and locks nothing. Called by
-- turbo.db.row_by_row while more rows are refused than it sets aside one by one; tasks/claim then tries these, whatever else
-- they lack. A position is a moment and a task's id: 'now' begins with what is yet to come, '-infinity' with everything.
-- Costs a look into agent_tasks_claim for each priority, of which it knows a hundred, and all rows of the position's own moment and
-- of the last one's (what one statement has inserted); not the rows before. Rows of more priorities cost an index scan. The moment of
-- the hundredth row is looked up first: sorted by id as well, some plans would read all that came after.
-- Always returns at least one row; task_id is null when nothing came. since: the given moment, for 'now' the one it means.
with recursive priorities(task_priority, place) as (
  (select t.task_priority, 1 from public.agent_tasks t
    where t.status = 'pending' and t.queue = %(queue)s and t.task_priority is not null
    order by t.task_priority desc nulls last limit 1)
  union all
  (select t.task_priority, p.place + 1
     from priorities p
    cross join lateral (
      select t.task_priority from public.agent_tasks t
       where t.status = 'pending' and t.queue = %(queue)s and t.task_priority < p.task_priority
       order by t.task_priority desc nulls last limit 1) t
    where p.place < 100)
), position as materialized (
  select %(moment)s::text::timestamptz as moment, %(after_id)s::text::public.turbo_task_id as task_id
)
select p.moment::text as since, found.task_id::text, found.fencing_token, found.run_after::text
  from position p
  left join lateral (
    select * from (
       select t.* from priorities l
        cross join lateral (
          select coalesce(
            (select u.run_after from public.agent_tasks u
              where u.status = 'pending' and u.queue = %(queue)s and u.task_priority = l.task_priority and u.run_after >= p.moment
                and (u.run_after > p.moment or p.task_id is null or u.task_id > p.task_id)
                and u.task_id <> all (%(aside)s::text[]::public.turbo_task_id[])
              order by u.run_after offset 99 limit 1), 'infinity') as moment) hundredth
        cross join lateral (
          select t.task_id, t.fencing_token, t.run_after from public.agent_tasks t
           where t.status = 'pending' and t.queue = %(queue)s and t.task_priority = l.task_priority and t.run_after >= p.moment
             and t.run_after <= least(hundredth.moment, statement_timestamp())
             and (t.run_after > p.moment or p.task_id is null or t.task_id > p.task_id)
             and t.task_id <> all (%(aside)s::text[]::public.turbo_task_id[])
           order by t.run_after, t.task_id limit 100) t
       union all
       select t.* from (values (1)) l
        cross join lateral (
          select coalesce(
            (select u.run_after from public.agent_tasks u
              where u.status = 'pending' and u.queue = %(queue)s and u.task_priority is null and u.run_after >= p.moment
                and (u.run_after > p.moment or p.task_id is null or u.task_id > p.task_id)
                and u.task_id <> all (%(aside)s::text[]::public.turbo_task_id[])
              order by u.run_after offset 99 limit 1), 'infinity') as moment) hundredth
        cross join lateral (
          select t.task_id, t.fencing_token, t.run_after from public.agent_tasks t
           where t.status = 'pending' and t.queue = %(queue)s and t.task_priority is null and t.run_after >= p.moment
             and t.run_after <= least(hundredth.moment, statement_timestamp())
             and (t.run_after > p.moment or p.task_id is null or t.task_id > p.task_id)
             and t.task_id <> all (%(aside)s::text[]::public.turbo_task_id[])
           order by t.run_after, t.task_id limit 100) t
       union all
       select t.* from priorities l
        cross join lateral (
          select coalesce(
            (select u.run_after from public.agent_tasks u
              where u.status = 'pending' and u.queue = %(queue)s and u.task_priority < l.task_priority and u.run_after >= p.moment
                and (u.run_after > p.moment or p.task_id is null or u.task_id > p.task_id)
                and u.task_id <> all (%(aside)s::text[]::public.turbo_task_id[])
              order by u.run_after offset 99 limit 1), 'infinity') as moment) hundredth
        cross join lateral (
          select t.task_id, t.fencing_token, t.run_after from public.agent_tasks t
           where t.status = 'pending' and t.queue = %(queue)s and t.task_priority < l.task_priority and t.run_after >= p.moment
             and t.run_after <= least(hundredth.moment, statement_timestamp())
             and (t.run_after > p.moment or p.task_id is null or t.task_id > p.task_id)
             and t.task_id <> all (%(aside)s::text[]::public.turbo_task_id[])
           order by t.run_after, t.task_id limit 100) t
        where l.place = 100) t
     order by t.run_after, t.task_id limit 100) found on true
 order by found.run_after, found.task_id
