-- Status: the keys of which as many tasks run as may, while others are pending, at most `limit`, those with the most waiters first.
-- waiting: counted up to most_waiting. Reads the running tasks that have a key, and for each key its limit and its waiters.
select k.concurrency_key, k."limit", k.running, w.waiting
  from (select r.concurrency_key::text as concurrency_key, r.running,
               coalesce((select l.running from public.agent_limits l where l.concurrency_key = r.concurrency_key), 1) as "limit"
          from (select r.concurrency_key, count(*)::int as running from public.agent_tasks r
                 where r.status = 'running' and r.concurrency_key is not null group by r.concurrency_key) r) k
 cross join lateral (select count(*)::int as waiting
                       from (select from public.agent_tasks w where w.status = 'pending' and w.concurrency_key = k.concurrency_key
                              limit %(most_waiting)s) w) w
 where k.running >= k."limit" and w.waiting > 0
 order by w.waiting desc, k.concurrency_key
 limit %(limit)s
