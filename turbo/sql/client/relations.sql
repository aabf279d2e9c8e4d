-- Client.relations: how one task hangs together with others, at most `most` of each kind, with their states (null: the row is gone):
-- 'need': what it needs, in the order of its column; 'dependent': what needs it; 'turn': its conversation in order, from `most` / 2
-- turns before it on. of_all: how many there are of that kind, dependents counted up to 10,000. By indexes, one look-up a row.
with me as materialized (
  select t.task_id::public.turbo_task_id as task_id, t.needs, cardinality(t.needs) as many, c.conversation, c.place
    from public.agent_tasks t
    left join public.agent_conversations c on c.task_id = t.task_id
   where t.task_id = %(task_id)s::text::public.turbo_task_id
), listed as (
  (select 'need' as kind, n.place, n.needs::public.turbo_task_id as task_id, m.many as of_all
     from me m cross join lateral unnest(m.needs) with ordinality n(needs, place)
    where n.place <= %(most)s)
  union all
  (select 'dependent', row_number() over (order by d.task_id), d.task_id,
          (select count(*)::int from (select from public.agent_dependencies a
                                       where a.needs = m.task_id and a.gone is null
                                         and (select c.after from public.agent_conversations c where c.task_id = a.task_id) is distinct from m.task_id
                                       limit 10000) w)
     from me m cross join lateral (
       select d.task_id from public.agent_dependencies d
        where d.needs = m.task_id and d.gone is null
          and (select c.after from public.agent_conversations c where c.task_id = d.task_id) is distinct from m.task_id
        order by d.task_id limit %(most)s) d)
  union all
  (select 'turn', c.place, c.task_id,
          (select count(*)::int from (select from public.agent_conversations a where a.conversation = m.conversation limit 10000) w)
     from me m cross join lateral (
       select c.place, c.task_id from public.agent_conversations c
        where c.conversation = m.conversation and c.place >= m.place - %(most)s::bigint / 2
        order by c.place limit %(most)s) c)
)
select l.kind, l.task_id::text as task_id, t.status::text as status, l.of_all
  from listed l
  left join lateral (select t.status from public.agent_tasks t where t.task_id = l.task_id limit 1) t on true
 order by l.kind, l.place
