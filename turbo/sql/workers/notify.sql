-- One NOTIFY from a worker, unless the server's notification queue is more than half full (migrations/0008_shared.sql): a full one
-- would fail the statement. No row: it was not sent.
select pg_notify(%(channel)s, %(payload)s)
 where pg_notification_queue_usage() <= 0.5
