-- Adoption: which statuses does the table hold, and how many rows of each? Reads the whole table: --plan gives it a time limit.
select t.status::text, count(*) from public.agent_tasks t group by t.status order by count(*) desc, 1
