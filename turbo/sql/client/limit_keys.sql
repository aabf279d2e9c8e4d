-- Client.limits.keys: keys with this prefix that have a limit, for shell completion. Reads the table once.
-- Only keys that no shell interprets, as turbo/cli/options.py checks once more: others would push them out of the list.
select l.concurrency_key
  from public.agent_limits l
 where l.concurrency_key like %(pattern)s::text and l.concurrency_key ~ '^[A-Za-z0-9_][A-Za-z0-9_./-]{0,199}$'
 order by l.concurrency_key
 limit %(limit)s
