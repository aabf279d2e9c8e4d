-- turbo's tables that this session does not own, with their owners: only an owner (or a superuser) can grant.
select c.relname::text, pg_catalog.pg_get_userbyid(c.relowner)::text
  from pg_catalog.pg_class c
 where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p', 'S')
   and c.relname ~ '^(agent_(tasks|actions|workers|leader|queues|accounts|progress|dependencies|blocked|unsettled|conversations|messages|schedules)|turbo_(meta|migrations|fence_seq))$'
   and not pg_catalog.pg_has_role(c.relowner, 'usage')
 order by c.relname
