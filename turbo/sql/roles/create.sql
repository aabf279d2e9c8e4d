-- turbo migrate --roles, first half. Roles belong to the whole cluster: one that is there already, made here or from
-- another database at this very moment, stays as it is. Needs CREATEROLE only while one is missing.
do $$
declare
  role_name text;
begin
  foreach role_name in array array['turbo_submitter', 'turbo_worker', 'turbo_reader', 'turbo_admin'] loop
    if not exists (select from pg_catalog.pg_roles where rolname = role_name) then
      begin
        execute format('create role %I nologin', role_name);
      exception when duplicate_object or unique_violation then null;
      end;
    end if;
  end loop;
end $$
