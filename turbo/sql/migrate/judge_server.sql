-- Can this server be migrated, and by this session?
select pg_is_in_recovery(), current_setting('transaction_read_only') = 'on', current_setting('server_encoding')
