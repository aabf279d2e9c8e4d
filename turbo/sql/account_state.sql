-- One breaker, as its prober and those who wait for the verdict read it.
select a.state, a.reason, a.probe_by from public.agent_accounts a where a.account = %(account)s and a.host = %(host)s
