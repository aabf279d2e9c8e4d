-- Which of the five roles are missing in this cluster, and may this session create them?
select array(select w.role from unnest(array['turbo_submitter', 'turbo_worker', 'turbo_reader', 'turbo_approver', 'turbo_admin'])
                     with ordinality as w(role, n)
              where not exists (select from pg_catalog.pg_roles r where r.rolname = w.role)
              order by w.n) as missing,
       (select r.rolsuper or r.rolcreaterole from pg_catalog.pg_roles r where r.rolname = current_user) as may_create
