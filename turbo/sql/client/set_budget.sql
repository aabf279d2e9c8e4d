-- Client.budgets.set: the same insert that a person may type; the trigger of agent_budgets judges it, and wakes the workers. What is
-- null gets its default, or stands for any. One of this name is changed to just this; if nothing differs, it is left as it is.
insert into public.agent_budgets as b (name, account, queue, task_type, submitted_by, period, timezone, usd, tokens, runs, warn_at)
values (%(name)s::text, %(account)s::text, %(queue)s::text, %(task_type)s::text, %(submitted_by)s::text,
        coalesce(%(period)s::text, 'day'), coalesce(%(timezone)s::text, 'UTC'), %(usd)s::numeric, %(tokens)s::bigint, %(runs)s::bigint,
        coalesce(%(warn_at)s::float8, 0.8))
on conflict (name) do update
   set account = excluded.account, queue = excluded.queue, task_type = excluded.task_type, submitted_by = excluded.submitted_by,
       period = excluded.period, timezone = excluded.timezone, usd = excluded.usd, tokens = excluded.tokens, runs = excluded.runs,
       warn_at = excluded.warn_at
