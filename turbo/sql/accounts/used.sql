-- Client.account_used: does a live worker use this account?
select exists (select from public.agent_workers w
                where w.state <> 'dead' and %(account)s::text = any (w.accounts)) as used
