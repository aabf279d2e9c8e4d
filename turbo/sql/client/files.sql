-- Client.files: the files of a task's last run that left any, without their content.
select f.fencing_token, f.path, octet_length(f.bytes) as size, encode(f.sha256, 'hex') as sha256, f.at
  from public.agent_files f
 where f.task_id = %(task_id)s::text::public.turbo_task_id
   and f.fencing_token = (select max(l.fencing_token) from public.agent_files l
                           where l.task_id = %(task_id)s::text::public.turbo_task_id)
 order by f.path
