#!/bin/sh
# Starts Varnish with default.vcl on port 8080, and its access log on standard output.
set -eu
folder=/var/lib/varnish/sluice

# The query holds questions and tickets, so the log gets the path from default.vcl. `vsl_mask` keeps URLs and headers out of
# what `varnishlog` shows, too.
varnishncsa -n "$folder" -t 60 -F '%h [%{%FT%T%z}t] "%m %{VCL_Log:path}x" %s %O %D %{VCL_Log:request}x' &

# Each stream occupies two threads: two pools of 4,000 carry about 4,000 streams. `Transient` bounds what is kept for clients
# that read slowly; one that reads nothing for 30 s is cut, as by Sluice itself.
exec varnishd -F -n "$folder" -a :8080 -f /etc/varnish/default.vcl \
  -p vsl_mask=-ReqURL,-BereqURL,-ReqHeader,-BereqHeader,-ReqUnset,-BereqUnset \
  -p idle_send_timeout=30 -p thread_pool_max=4000 -p thread_pool_stack=80k -s Transient=malloc,512m
