"""Fleets: one YAML file names hosts and workers. Commands and service files for launchd, systemd and Prometheus derive from it.

model.py            fleet.yaml: its keys, and checks across keys
secrets.py          finds secrets, which the file must not contain
remote_files.py     the files that it points to, where they can be read
instance.py         one worker process: arguments, environment, files
launchd.py          its plist                      launchd_keys.py  the typed keys of a plist
systemd.py          its user unit
targets.py          Prometheus' file_sd targets
render.py           all of these, as files

shell.py            runs a line of sh on a host, locally or over ssh, or only prints it
manager.py          the interface of a service manager
launchctl.py        launchd's                      systemctl.py     systemd's
operate.py          install, start, stop, uninstall
rolling_restart.py  restart: one worker at a time
presence.py         the workers in agent_workers and their /metrics
status_report.py    status: manager, agent_workers and /metrics side by side
"""
