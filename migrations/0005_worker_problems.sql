-- turbo: compatible-from 3
-- What is wrong with a worker now, written with each heartbeat: [{"kind": …, "what": …, "do": …}], [] when all is well.
-- An older worker leaves it as it is, and has nothing to say.
alter table public.agent_workers add column if not exists problems jsonb not null default '[]';
comment on column public.agent_workers.problems is
  'what is wrong with this worker now, written with each heartbeat: [{"kind", "what", "do"}]';
