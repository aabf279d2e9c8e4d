-- Adoption: has turbo been here before (`begun`), and what may this session do (`may_create`, `superuser`)?
select to_regclass('public.turbo_meta') is not null as begun, has_schema_privilege('public', 'create') as may_create,
       coalesce((select r.rolsuper from pg_roles r where r.rolname = current_user), false) as superuser
