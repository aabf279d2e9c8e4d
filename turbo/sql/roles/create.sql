-- turbo migrate --roles, first half. Roles belong to the whole cluster: an existing one stays as it is, even if another
-- database's migration creates it at this moment. Needs CREATEROLE only while a role is missing.
do $$
declare
  role_name text;
begin
  foreach role_name in array array['turbo_submitter', 'turbo_worker', 'turbo_reader', 'turbo_approver', 'turbo_admin'] loop
    if not exists (select from pg_catalog.pg_roles where rolname = role_name) then
      begin
        execute format('create role %I nologin', role_name);
      exception when duplicate_object or unique_violation then null;
      end;
    end if;
  end loop;
end $$
