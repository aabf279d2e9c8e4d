-- Adoption, PostgreSQL 15 and later: may this session set session_replication_role without being a superuser?
select has_parameter_privilege('session_replication_role', 'set')
