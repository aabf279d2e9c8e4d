-- Doctor: sends each of these workers a question on its own channel; a worker whose LISTEN works answers
-- (turbo.worker.listener).
select pg_notify(c.channel, %(question)s) from unnest(%(channels)s::text[]) c(channel)
