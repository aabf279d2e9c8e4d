-- Doctor: what kind of server this is, and what this session may see and do.
select pg_is_in_recovery() as standby,
       current_setting('transaction_read_only') = 'on' as read_only,
       current_setting('server_encoding') as encoding,
       current_setting('synchronous_standby_names') as synchronous_standby_names,
       pg_has_role(current_user, 'pg_read_all_stats', 'usage') as sees_all,
       current_user as role
