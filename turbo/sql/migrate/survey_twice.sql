-- Adoption: an old table may have a column with the name of one of turbo's keys. Which of these columns repeat a value that
-- turbo's unique index allows only once? Asked only if there is such a column. Reads the table.
select distinct k.key
  from public.agent_tasks t
 cross join lateral jsonb_each_text(to_jsonb(t)) k
 where k.key = any (%(columns)s::text[]) and k.value is not null and (k.key <> 'concurrency_key' or t.status::text = 'running')
 group by k.key, k.value
having count(*) > 1
