-- Doctor: the connected standbys. sync_state is null where the role may not see it.
select coalesce(r.application_name, '') as name, r.sync_state
  from pg_stat_replication r
 where r.state is distinct from 'backup'
 order by 1
