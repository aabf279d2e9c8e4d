-- Adoption: an old table may have a column with the name of one of turbo's keys. Which of them hold a value more than once
-- where turbo's unique index allows it once? Asked only where there is such a column. Reads the table.
select distinct k.key
  from public.agent_tasks t
 cross join lateral jsonb_each_text(to_jsonb(t)) k
 where k.key = any (%(columns)s::text[]) and k.value is not null and (k.key <> 'concurrency_key' or t.status::text = 'running')
 group by k.key, k.value
having count(*) > 1
