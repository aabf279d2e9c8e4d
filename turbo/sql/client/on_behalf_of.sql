-- Who stands behind the changes of this transaction, for detail.on_behalf_of of the audit trail (migrations/0028_on_behalf_of.sql).
-- For this transaction alone: a pooler may hand the session to another client.
select set_config('turbo.on_behalf_of', %(person)s::text, true)
