-- Client.file: the content of one file of a run. By primary key.
select f.bytes
  from public.agent_files f
 where f.task_id = %(task_id)s::text::public.turbo_task_id and f.fencing_token = %(token)s::bigint and f.path = %(path)s::text
