-- Doctor: how full the notification queue is (0 to 1). It drains as fast as the slowest listener reads.
select pg_notification_queue_usage()::float8 as share
