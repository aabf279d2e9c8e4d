-- The open messages of this worker's runs, oldest first: at most %(most)s of one run, and about %(bytes)s bytes of it. known: those
-- that the runs have already. Reads only; a run that is not the row's any more gets nothing.
select m.task_id::text as task_id, m.fencing_token, m.message_id, m.body, m.created_by
  from (select c.task_id, c.token as fencing_token, o.message_id, o.body, o.created_by,
               sum(octet_length(o.body)) over (partition by c.task_id order by o.message_id) - octet_length(o.body) as before
          from unnest(%(task_id)s::text[]::public.turbo_task_id[], %(token)s::bigint[]) c(task_id, token)
          join public.agent_tasks t on t.task_id = c.task_id and t.status = 'running' and t.fencing_token = c.token
         cross join lateral (
               select a.message_id, a.body, a.created_by from public.agent_messages a
                where a.task_id = c.task_id and a.delivered_at is null
                  and public.turbo_same_task(a.task_born::double precision, extract(epoch from t.created_at)::double precision)
                  and a.message_id <> all (%(known)s::bigint[])
                order by a.message_id
                limit %(most)s) o) m
 where m.before < %(bytes)s
 order by m.task_id, m.message_id
