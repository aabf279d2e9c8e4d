-- Proof of delivery: one NOTIFY to the listener, sent from another session, at each (re)connect.
select pg_notify(%(channel)s, %(payload)s)
