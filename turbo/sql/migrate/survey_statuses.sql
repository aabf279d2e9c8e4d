-- Adoption: which statuses the table holds, and how many rows have each. Reads the whole table: --plan gives it a time limit.
select t.status::text, count(*) from public.agent_tasks t group by t.status order by count(*) desc, 1
