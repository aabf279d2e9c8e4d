-- Where to read the audit trail again from, after a restore or a failover: the last row from before `since`. Walks back through the rows
-- since then, by the primary key.
select coalesce((select a.action_id from public.agent_actions a where a.executed_at < %(since)s::timestamptz
                  order by a.action_id desc limit 1), 0)::bigint as seen
