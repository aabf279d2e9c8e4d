-- Doctor: ask each of these workers, on the channel of its own, whether it hears (turbo.worker.listener).
select pg_notify(c.channel, %(question)s) from unnest(%(channels)s::text[]) c(channel)
