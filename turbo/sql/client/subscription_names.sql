-- Client.subscriptions.names: names with this prefix, for shell completion. Reads the table once.
-- Only names that no shell interprets, as turbo/cli/options.py checks once more: others would push them out of the list.
select s.name
  from public.agent_subscriptions s
 where s.name like %(pattern)s::text and s.name ~ '^[A-Za-z0-9_][A-Za-z0-9_./-]{0,199}$'
 order by s.name
 limit %(limit)s
