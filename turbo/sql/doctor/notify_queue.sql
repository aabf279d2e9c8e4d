-- Doctor: how full the queue of notifications is (0 to 1). It empties as the slowest listener reads.
select pg_notification_queue_usage()::float8 as share
