"""The processes of a service or a job on this machine.

signals         Ctrl-C and SIGTERM, checked where it is safe to stop
ports           free ports, and the process that uses one
cpu_scheduling  how the threads of a replica share its cores
log_relay       the log lines of all replicas, on the command's stderr
process_reaper  ends every process of a job, even if the job is killed
haproxy         HAProxy in front of the replicas
"""
