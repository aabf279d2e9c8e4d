-- Client.blocked: for what these tasks wait that are blocked: how many of their needs are left, and the first `most` of them with
-- their status; the task before it in its conversation. tied: the settler has seen it. By primary keys.
select t.task_id::text as task_id, b.needs_left, left(b.failed_need, 2048) as failed_need, b.task_id is not null as tied,
       greatest(0, extract(epoch from clock_timestamp() - coalesce(b.since, t.created_at::timestamptz)))::float8 as seconds,
       t.continues, c.after::text as after, coalesce(t.on_needs_failed, 'cancel') as on_needs_failed,
       coalesce((select jsonb_agg(jsonb_build_object('task_id', n.needs::text, 'status', o.status::text) order by n.place)
                   from (select d.needs, row_number() over () as place
                           from (select d.needs from public.agent_dependencies d where d.task_id = t.task_id and not d.settled
                                 union all
                                 select u.needs::public.turbo_task_id from unnest(t.needs) u(needs) where b.task_id is null
                                 limit %(most)s::bigint) d) n
                   left join lateral (select o.status from public.agent_tasks o where o.task_id = n.needs limit 1) o on true),
                '[]') as waits_for
  from public.agent_tasks t
  left join public.agent_blocked b on b.task_id = t.task_id
  left join public.agent_conversations c on c.task_id = t.task_id
 where t.task_id = any (%(task_id)s::text[]::public.turbo_task_id[]) and t.status::text = 'blocked'
