-- Client.budgets.names: names with this prefix, for shell completion. Reads the table once.
-- Only names that no shell interprets, as turbo/cli/options.py checks once more: others would push them out of the list.
select b.name
  from public.agent_budgets b
 where b.name like %(pattern)s::text and b.name ~ '^[A-Za-z0-9_][A-Za-z0-9_./-]{0,199}$'
 order by b.name
 limit %(limit)s
