-- Records an applied migration, in the migration's own last transaction: both commit together.
insert into public.turbo_migrations (version, name, checksum, turbo_version)
values (%(version)s, %(name)s, %(checksum)s, %(turbo_version)s)
