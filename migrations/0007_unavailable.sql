-- turbo: compatible-from 3
-- A breaker is closed because what it stands for is away: the service of an account, a repository, or its remotes. It is not
-- a new value of `reason`, because workers that know schema 3 stop at a reason that they do not know. They see a pause
-- without a reason, and respect it.
alter table public.agent_accounts add column if not exists unavailable boolean not null default false;
comment on column public.agent_accounts.unavailable is
  'why it is not open, if reason is null: it is away or overloaded. Means nothing while state is open';
