-- How many budgets there are, and how many of them are in US dollars. What they cover: each account, queue and type, once.
select b.name, b.account, b.queue, b.task_type, b.usd is not null and b.tokens is null and b.runs is null as only_usd
  from public.agent_budgets b order by b.name limit 1000
