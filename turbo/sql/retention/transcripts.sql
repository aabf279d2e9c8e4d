-- Retention, run by the leader: reads the next `limit` rows of transcripts that are older than transcript_days, by the index on their
-- time, from `after` on, and deletes those that nobody needs any more. A task that is not over keeps its transcript, and so does one
-- whose conversation goes on: a later task of it may have to go on from there on another host.
-- Returns how many rows were read and deleted, and where the next read begins. Safe with two leaders.
with found as materialized (
  select r.ctid as place, r.at, r.task_id
    from public.agent_transcripts r
   where r.at >= %(after)s::timestamptz and r.at < statement_timestamp() - make_interval(secs => %(transcripts)s::float8)
   order by r.at
   fetch first %(limit)s rows with ties
), kept as materialized (
  select k.task_id
    from (select distinct f.task_id from found f) k
   cross join lateral (select t.status::text in ('completed', 'failed', 'cancelled') as over
                         from public.agent_tasks t where t.task_id = k.task_id offset 0) s
   where not s.over
      or exists (select from public.agent_conversations mine
                  cross join lateral (select o.task_id from public.agent_conversations o
                                       where o.conversation = mine.conversation offset 0) other
                  cross join lateral (select t.status::text as status from public.agent_tasks t
                                       where t.task_id = other.task_id offset 0) t
                  where mine.task_id = k.task_id and t.status not in ('completed', 'failed', 'cancelled'))
), removed as (
  delete from public.agent_transcripts d
   where d.ctid = any (array(select f.place from found f where f.task_id not in (select k.task_id from kept k)))
     and d.at < statement_timestamp() - make_interval(secs => %(transcripts)s::float8)
  returning 1
)
select (select count(*) from found) as read, (select count(*) from removed) as deleted,
       (select max(f.at) + interval '1 microsecond' from found f) as after, set_config('synchronous_commit', 'off', true) as fast
