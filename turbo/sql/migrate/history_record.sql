-- Records an applied migration, in the migration's own last transaction: both commit together.
insert into public.turbo_migrations (version, name, checksum, turbo_version, compatible_from)
values (%(version)s, %(name)s, %(checksum)s, %(turbo_version)s, %(compatible_from)s)
