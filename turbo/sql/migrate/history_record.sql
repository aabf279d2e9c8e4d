-- A migration is applied: written in its own last transaction, so that the two are true together.
insert into public.turbo_migrations (version, name, checksum, turbo_version)
values (%(version)s, %(name)s, %(checksum)s, %(turbo_version)s)
