-- Adoption: what may this session do, and has turbo been here? replicate: may it set session_replication_role?
select to_regclass('public.turbo_meta') is not null as begun, has_schema_privilege('public', 'create') as may_create,
       coalesce((select r.rolsuper from pg_roles r where r.rolname = current_user), false) as superuser
