-- Doctor: sends each of these workers a question on its own channel; a worker whose LISTEN works answers
-- (turbo.worker.listener). Nothing is sent while the server's notification queue is more than half full.
select pg_notify(c.channel, %(question)s) from unnest(%(channels)s::text[]) c(channel)
 where pg_notification_queue_usage() <= 0.5
